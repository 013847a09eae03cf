"""Walking folders on a local disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sam_pipeline.storage.inputs.listing.passed_over import LOG_FOLDER, PassedOver
from sam_pipeline.storage.inputs.listing.path_pattern import PathPattern

_ENTRIES_AT_ONCE = 20_000


class Retry(Protocol):
    """How one request is made, again and again where it may help."""

    def __call__(self, call: Callable[[], Any], *, is_first: bool = False) -> Any:
        """Make it; is_first where nothing says yet that the credentials are right."""


@dataclass
class ListingPage:
    """A part of a listing."""

    files: list[tuple[str, int | None, str | None]] = field(default_factory=list)
    """The wanted ones: path, size in bytes, and what changes when the file does."""
    num_others: int = 0
    """Files that a pattern matches but nobody wants."""
    passed_over: PassedOver = field(default_factory=PassedOver)


def walk_disk(pattern: PathPattern, is_wanted: Callable[[str], bool], retry: Retry) -> Iterator[ListingPage]:
    """Walk a folder to the bottom. Links to files are followed; links to folders are not, since they may form a loop.

    They are noted, and so are hidden folders and those of Delta tables.

    Raises:
        OSError: a folder cannot be read: fsspec's find would pass over it in silence.
    """
    folders = [pattern.root or "/"]
    while folders:
        folder = folders.pop()
        entries = retry(partial(_entries, folder))
        table = pattern.table_folder(f"{folder}/{LOG_FOLDER}/")
        if table is not None and any(entry.name == LOG_FOLDER and entry.is_dir() for entry in entries):
            found = ListingPage()
            found.passed_over.add("table folder", table)
            yield found
            continue
        while entries:
            some = entries[-_ENTRIES_AT_ONCE:]
            del entries[-_ENTRIES_AT_ONCE:]  # each holds on to what it was asked for
            found, subfolders = retry(partial(_look_at, some, pattern, is_wanted))
            folders += subfolders
            yield found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _look_at(
    entries: Sequence[os.DirEntry[str]], pattern: PathPattern, is_wanted: Callable[[str], bool]
) -> tuple[ListingPage, list[str]]:
    """Sort entries of a folder into files and folders to walk."""
    found, folders = ListingPage(), []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if pattern.may_hold(entry.path):
                folders.append(entry.path)
            elif pattern.hidden_folder(f"{entry.path}/") is not None:
                found.passed_over.add("hidden folder", entry.path)
        elif entry.is_symlink() and os.path.isdir(entry.path):
            if pattern.may_hold(entry.path):
                found.passed_over.add("linked folder", entry.path)
        elif pattern.matches(entry.path) and _is_file(entry):
            if is_wanted(entry.name):
                found.files += _file(entry)
            else:
                found.num_others += 1
    return found, folders


def _is_file(entry: os.DirEntry[str]) -> bool:
    # isfile takes a link that leads nowhere, or in circles, for none.
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file(follow_symlinks=False)


def _file(entry: os.DirEntry[str]) -> list[tuple[str, int, str]]:
    try:
        status = entry.stat()  # of a link's target, as when the file is fetched
    except FileNotFoundError:
        return []  # deleted since
    return [(entry.path, status.st_size, str(status.st_mtime))]
