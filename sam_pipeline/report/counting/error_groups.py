"""Errors that say the same of different images, as one."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# Each character can be read in one way only: else a name with many backslashes would take time without end.
_QUOTED = re.compile(r"""(['"])(?:\\.|(?!\1)[^\\])*\1""")
_PATH = re.compile(r"(?:\w+:/)?/[^\s:,;)]+")
_NUMBER = re.compile(r"\b(?:0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*\b")
_SPACES = re.compile(r"(?:…[ /]*)+…")

_MOST_GROUPS = 100
OTHER = "other errors"


@dataclass(frozen=True)
class ErrorGroup:
    """Failures that have the same status, and the same message but for names and numbers."""

    status: str
    """Status of the images; for prompts that got no mask, their role: prompt or region."""
    message: str
    """With … for what differs."""
    num: int
    image_id: int
    """The first of them, as an example."""
    uri: str
    error: str
    """The example's own message."""


class ErrorCounter:
    """Counts errors by status and message. After a hundred different messages, new ones are counted as one."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], ErrorGroup] = {}
        self._num: dict[tuple[str, str], int] = {}

    def add_images(self, rows: pa.Table) -> None:
        """Count the images of some rows that were not annotated."""
        failed = rows.filter(pc.not_equal(rows["status"], "ok"))
        for row in failed.select(["image_id", "uri", "status", "error"]).to_pylist():
            self._add(row["status"], row["error"] or "", row["image_id"], row["uri"])

    def add_prompts(self, rows: pa.Table) -> None:
        """Count the prompts and regions of some rows that could not be used."""
        failed = rows.filter(rows["prompt_errors"].is_valid())
        for row in failed.select(["image_id", "uri", "prompt_errors"]).to_pylist():
            for error in row["prompt_errors"]:
                self._add(error["role"], error["error"] or "", row["image_id"], row["uri"])

    def groups(self) -> tuple[ErrorGroup, ...]:
        """What was counted so far, the most frequent first."""
        found = [
            ErrorGroup(group.status, group.message, self._num[key], group.image_id, group.uri, group.error)
            for key, group in self._groups.items()
        ]
        return tuple(sorted(found, key=lambda group: (-group.num, group.status, group.message)))

    def _add(self, status: str, error: str, image_id: int, uri: str) -> None:
        message = same_in_all(error, uri)
        key = (status, message)
        if key not in self._groups and len(self._groups) >= _MOST_GROUPS:
            key = (status, OTHER)
            message = OTHER
        if key not in self._groups:
            self._groups[key] = ErrorGroup(status, message, 0, image_id, uri, error)
        self._num[key] = self._num.get(key, 0) + 1


def same_in_all(error: str, uri: str) -> str:
    """A message without what is the image's own: its URI, paths, quoted names and numbers."""
    text = error.replace(uri, "…")
    if name := uri.rpartition("/")[2]:
        text = text.replace(name, "…")
    for pattern in (_QUOTED, _PATH, _NUMBER, _SPACES):
        text = pattern.sub("…", text)
    return text
