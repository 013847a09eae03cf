"""Where an export goes: a folder, local or remote, in which a file appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

from sam_pipeline.errors import OutputError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.listing.store_listing import folder_names
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem, protocol_of
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import REQUESTS_AT_ONCE, output_errors

OWN_FOLDER = ".sam-pipeline-export"
"""Below the destination: what the program notes of its export, and files that are not finished."""

MARKER = f"{OWN_FOLDER}/export.json"
"""The note that makes a folder an export."""

MOVE_IT = "move it, or use another place"

_UNFINISHED = f"{OWN_FOLDER}/unfinished"

# S3 takes ten thousand parts of an object.
_UPLOAD_BYTES = 32 << 20


class Destination:
    """A folder that is written to.

    Args:
        uri: an absolute path or a URI.
        storage_options: of fsspec.
    """

    def __init__(self, uri: str, storage_options: StorageOptions) -> None:
        self.uri, self._storage_options = uri, storage_options
        self._filesystem, self._path = open_filesystem(uri, storage_options)
        self.is_local = protocol_of(uri) == "file"

    def __reduce__(self) -> tuple[Any, ...]:
        return Destination, (self.uri, self._storage_options)

    def put_all(self, files: Mapping[str, bytes]) -> None:
        """Write small files, on remote storage many at once.

        Args:
            files: content by name, a path relative to the folder.

        Raises:
            OutputError, StorageUnavailableError: one could not be written; others may have been.
        """
        if self.is_local or len(files) < 2:
            for name, content in files.items():
                self.put(name, content)
            return
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            for _ in threads.map(self.put, files, files.values()):
                pass

    def put(self, name: str, content: bytes) -> None:
        """Write a file, on remote storage with one request."""
        if self.is_local:
            self.write(name, lambda file: file.write(content))
            return
        with output_errors(join_uri(self.uri, name)):
            self._retried(partial(self._filesystem.pipe_file, self._at(name), content), name)

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Write a file of any size.

        Args:
            name: relative to the folder.
            fill: writes the content; on remote storage it may be called again, after a failure.
        """
        with output_errors(join_uri(self.uri, name)):
            if not self.is_local:
                self._retried(partial(self._upload, name, fill), name)
                return
            unfinished, target = self._in_folder(f"{_UNFINISHED}/{uuid.uuid4().hex}"), self._in_folder(name)
            try:
                with open(unfinished, "xb") as file:
                    fill(file)
                os.replace(unfinished, target)
            except BaseException:
                with suppress(FileNotFoundError):  # it could not be opened
                    os.unlink(unfinished)
                raise

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to, which is there once the block has ended without an error."""
        with self.spool() as spool:
            yield spool

            def fill(file: BinaryIO) -> None:
                spool.seek(0)
                shutil.copyfileobj(spool, file, 1 << 20)

            self.write(name, fill)

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        """A file without a name, on the disk of a local folder; for a remote one in the folder for temporary files.

        Raises:
            OutputError: that disk is full, or cannot be written; whatever OSError the block raises becomes one.
        """
        try:
            folder = os.path.dirname(self._in_folder(f"{_UNFINISHED}/spool")) if self.is_local else None
            with tempfile.TemporaryFile(dir=folder) as file:
                yield file
        except OSError as error:
            if self.is_local:
                raise OutputError(f"cannot use output {self.uri}: {one_line(error)}") from error
            raise OutputError(
                f"cannot write to {_temporary_folder()}, the folder for temporary files: {one_line(error)}; "
                "TMPDIR names another"
            ) from error

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link to a file; only in a local folder."""
        with output_errors(join_uri(self.uri, name)):
            path = self._in_folder(name)
            if os.path.islink(path):
                os.unlink(path)
            os.symlink(target, path)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        with output_errors(join_uri(self.uri, name)):
            try:
                content: bytes = self._retried(partial(self._filesystem.cat_file, self._at(name)), name)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return content

    def append(self, names: Sequence[str], separator: bytes, file: BinaryIO) -> None:
        """Append the content of files, which are not large, to an open one, a separator between those with any."""
        is_first = True
        for name in names:
            content = self.read(name)
            if content is None:
                raise OutputError(f"{join_uri(self.uri, name)} is gone; --overwrite starts anew")
            if content:
                file.write(content if is_first else separator + content)
                is_first = False

    def first_name(self) -> str | None:
        """The name of a file or folder right in this one, but for what is hidden; None if there is none."""

        def look() -> str | None:
            names = folder_names(self._filesystem, self._path)
            return next((name for name in names if not name.startswith(".")), None)

        with output_errors(self.uri):
            name: str | None = self._retried(look, "")
            return name

    def names(self, folder: str = "") -> list[str]:
        """All files below a folder of this one, by their names relative to this one."""
        with output_errors(self.uri):
            path = self._at(folder) if folder else self._path
            start = len(self._path.rstrip("/")) + 1
            if self.is_local:
                return [os.path.join(at, name)[start:] for at, _, names in os.walk(path) for name in names] + [
                    os.path.join(at, name)[start:]
                    for at, names, _ in os.walk(path)
                    for name in names
                    if os.path.islink(os.path.join(at, name))
                ]
            self._filesystem.invalidate_cache()
            try:
                found = self._retried(partial(self._filesystem.find, path), folder)
            except FileNotFoundError:
                return []
            return [each[start:] for each in found if len(each) > start]

    def remove(self, names: list[str]) -> None:
        """Delete files, and local folders that are empty then; what is not there is no error."""
        with output_errors(self.uri):
            if self.is_local:
                self._remove_local(names)
                return
            with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
                for _ in threads.map(self._remove_object, names):
                    pass
            self._filesystem.invalidate_cache()

    def remove_own(self, folder: str = OWN_FOLDER) -> None:
        """Delete all that the program has written into one of its own folders; nobody else may be writing there."""
        names = own_names(self.names(folder))
        # The note that this is an export is the last: without it, what is left would be the files of others.
        self.remove([name for name in names if name != MARKER])
        self.remove([name for name in names if name == MARKER])

    def remove_unfinished(self) -> None:
        """Delete what killed writers left; nobody else may be writing."""
        self.remove_own(_UNFINISHED)

    def _remove_local(self, names: Sequence[str]) -> None:
        for name in names:
            self._check_folders(name)
            if os.path.lexists(self._at(name)):
                os.unlink(self._at(name))
        folders = {folder for name in names for folder in folders_of(name)}
        for folder in sorted(folders, key=len, reverse=True):
            if os.path.isdir(self._at(folder)) and not os.listdir(self._at(folder)):
                os.rmdir(self._at(folder))

    def _remove_object(self, name: str) -> None:
        with suppress(FileNotFoundError):
            # Not rm, which takes a name with a bracket for a pattern.
            self._retried(partial(self._filesystem.rm_file, self._at(name)), name)

    def _in_folder(self, name: str) -> str:
        """The path of a local file to be made, whose folder is there then."""
        self._check_folders(name)
        os.makedirs(os.path.dirname(self._at(name)), exist_ok=True)
        return self._at(name)

    def _check_folders(self, name: str) -> None:
        """Refuse a local name that a link leads out of the folder: the files there are those of others."""
        for folder in folders_of(name):
            if os.path.islink(self._at(folder)):
                raise OutputError(f"{self._at(folder)} is a link, and no folder of an export; {MOVE_IT}")

    def _upload(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        file = self._filesystem.open(self._at(name), "wb", block_size=_UPLOAD_BYTES)
        try:
            fill(file)
        except BaseException:
            # To close it would publish what there is.
            file.discard()
            file.closed = True
            raise
        file.close()

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _retried(self, call: Callable[[], Any], name: str) -> Any:
        return retried(call, what=f"use {join_uri(self.uri, name)}", denied_is_final=False)


def own_names(names: Sequence[str]) -> list[str]:
    """Of names of files, those that the program has given to its notes. Desktops leave hidden files in any folder."""
    return [name for name in names if name.startswith(f"{OWN_FOLDER}/") and "/." not in name]


def folders_of(name: str) -> list[str]:
    """The folders on the way to a file, the outermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # there is none
        return "any folder"
