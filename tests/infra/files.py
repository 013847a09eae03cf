"""The files of infra/, as tests read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import SCRIPTS

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def documents(name: str) -> list[dict[str, Any]]:
    """All documents of a YAML file."""
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def pins() -> dict[str, str]:
    """Each pinned distribution, and its version."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    parsed = [Requirement(line) for line in lines]
    assert all(re.fullmatch(r"==[^,*]+", str(each.specifier)) and not each.marker for each in parsed)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in parsed}


def found_by(tool: str, *arguments: object) -> str:
    """What a linter of this environment prints; empty where it finds nothing."""
    done = subprocess.run(
        [SCRIPTS / tool, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode == 0) == (done.stdout == ""), done.stdout + done.stderr
    return done.stdout
