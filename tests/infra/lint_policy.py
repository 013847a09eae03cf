"""Parliament, the linter of IAM policies, as a program: `python -m tests.infra.lint_policy --file FILE`.

Parliament 1.6.4 asks setuptools' `pkg_resources` for the paths of two of its files. Setuptools 82 has dropped it, so a
stand-in answers.
"""

from __future__ import annotations

import importlib.resources
import sys
import types
from typing import Any


def _paths_of_files() -> types.ModuleType:
    stand_in: Any = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, name: str(importlib.resources.files(package) / name)
    module: types.ModuleType = stand_in
    return module


if __name__ == "__main__":
    sys.modules["pkg_resources"] = _paths_of_files()
    from parliament.cli import cli

    cli()
