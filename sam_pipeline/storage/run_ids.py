"""What names a run."""

from __future__ import annotations

import uuid


def run_id(output: str) -> str:
    """The name of a run in logs and metrics: the same for every start with an output.

    Args:
        output: of the run, as absolute_uri makes it.
    """
    # The name of a local folder may hold anything.
    return str(uuid.uuid5(uuid.NAMESPACE_URL, output.encode(errors="backslashreplace").decode()))
