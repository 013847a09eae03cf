"""Writing the files of one part of an export, so that their names are known before there is any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from sam_pipeline.errors import OutputError
from sam_pipeline.exports.places.destination import MOVE_IT, OWN_FOLDER, Destination, folders_of
from sam_pipeline.storage.objects.filesystem import join_uri

NAMES_FOLDER = f"{OWN_FOLDER}/names"
"""Here are lists of names, of every file that was or will be written."""


class Place:
    """Where a part of an export writes its files.

    A file that is written again replaces itself: a part that was cut off is done again from its beginning.

    Args:
        destination: of the export.
        part: what the part is called.
        kept: names of files of others, which are not to be replaced.
    """

    def __init__(self, destination: Destination, part: str, kept: frozenset[str]) -> None:
        self.destination = destination
        self._part, self._kept = part, kept
        self._announced: set[str] = set()
        self._num_lists = 0

    @property
    def is_local(self) -> bool:
        """Whether files can be links."""
        return self.destination.is_local

    def announce(self, names: Iterable[str]) -> None:
        """Note names of files that will be written, so that --overwrite can delete them; saves notes for each.

        Raises:
            OutputError: a file of another program has such a name.
        """
        new = sorted({name for name in names if not name.startswith(f"{OWN_FOLDER}/")} - self._announced)
        if not new:
            return
        # A folder's name is among the kept ones if it is a link; it leads to files that no export wrote.
        taken = {*new, *(folder for name in new for folder in folders_of(name))}
        if foreign := self._kept & taken:
            raise OutputError(f"{join_uri(self.destination.uri, min(foreign))} is no file of an export; {MOVE_IT}")
        content = json.dumps(new, separators=(",", ":")).encode()
        self.destination.put(f"{NAMES_FOLDER}/{self._part}-{self._num_lists:06}.json", content)
        self._num_lists += 1
        self._announced.update(new)

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        self.put_all({name: content})

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Write small files, on remote storage many at once."""
        self.announce(files)
        self.destination.put_all(files)

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Write a file of any size; on remote storage fill may be called again, after a failure."""
        self.announce([name])
        self.destination.write(name, fill)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to, which is there once the block has ended without an error."""
        self.announce([name])
        with self.destination.writing(name) as file:
            yield file

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link to a file; only where is_local."""
        self.announce([name])
        self.destination.link(name, target)
