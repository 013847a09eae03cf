"""One file that a command writes where the user says: whole or not at all, and never in the place of another."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.safety.uri_rules import local_path
from sam_pipeline.storage.layout import check_apart
from sam_pipeline.storage.objects.filesystem import StorageOptions, absolute_uri, open_filesystem
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import output_errors

_MESSAGE = "cannot write {uri}: {error}"


class NewFile:
    """A file to be written. Made before the work whose result it holds, so that what cannot be written fails at once.

    Args:
        place: a local path or a URI; folders on the way are made.
        output: folder of the run that the file tells of.
        storage_options: of fsspec.
        overwrite: replace a file that is there.

    Raises:
        ConfigError: an address that is refused, or one where the run keeps its tables.
        OutputError: there is a file or a folder of this name, or it cannot be written.
        StorageUnavailableError: storage did not answer.
    """

    def __init__(self, place: str, output: str, storage_options: StorageOptions, *, overwrite: bool) -> None:
        if place.endswith("/"):
            raise ConfigError(f"{place} is a folder: name a file in it")
        self._uri = absolute_uri(place)
        check_apart(self._uri, output, storage_options)
        self._filesystem, self._path = open_filesystem(self._uri, storage_options)
        self._is_local = local_path(self._uri) is not None
        with self._errors():
            found = retried(partial(self._type, self._path), what=f"look at {self._uri}")
            if found == "directory":
                raise OutputError(f"{self._uri} is a folder: name a file in it")
            if found is not None and not overwrite:
                raise OutputError(f"{self._uri} exists already: give another name, or --overwrite")
            if self._is_local:
                self._check_folder()

    def write(self, content: bytes) -> None:
        """Write the whole file.

        Raises:
            OutputError: it could not be written; what was there before still is.
            StorageUnavailableError: storage did not answer.
        """
        with self._errors():
            if not self._is_local:  # an object appears when it is whole
                put = partial(self._filesystem.pipe_file, self._path, content)
                retried(put, what=f"write {self._uri}", denied_is_final=False)
                return
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            unfinished = f"{self._path}.{uuid.uuid4().hex[:8]}.unfinished"
            try:
                with open(unfinished, "xb") as file:
                    file.write(content)
                os.replace(unfinished, self._path)
            except BaseException:
                if os.path.exists(unfinished):
                    os.remove(unfinished)
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with output_errors(self._uri, _MESSAGE):
            yield

    def _type(self, path: str) -> str | None:
        try:
            found: str = self._filesystem.info(path)["type"]
        except FileNotFoundError:
            return None
        return found

    def _check_folder(self) -> None:
        """The folder, or the nearest one above it that is there, must let files be made in it."""
        folder = os.path.dirname(self._path)
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise NotADirectoryError(f"{folder} is no folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {folder}")
