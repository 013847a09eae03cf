"""One file that a command writes where the user says: whole or not at all. It replaces a file only if asked to."""

from __future__ import annotations

import errno
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
    """A file to be written. Made before the work whose result it holds, so that a place that takes none fails first.

    Args:
        place: a local path or a URI; folders on the way are made. Of a symbolic link, the file that it names is meant.
        output: folder of the run that the file tells of.
        storage_options: of fsspec.
        overwrite: replace a file that is there; None where the user cannot ask for it.

    Raises:
        ConfigError: an address that is refused, or one where the run keeps its tables.
        OutputError: there is a file or a folder of this name, or it cannot be written.
        StorageUnavailableError: storage did not answer.
    """

    uri: str
    """An absolute path or a URI, the same for all names of one file."""

    def __init__(
        self, place: str, output: str, storage_options: StorageOptions, *, overwrite: bool | None = None
    ) -> None:
        if place.endswith("/"):
            raise ConfigError(f"{place} is a folder: name a file in it")
        self.uri = absolute_uri(place)
        check_apart(self.uri, output, storage_options)
        self._overwrite = overwrite
        self._is_local = local_path(self.uri) is not None
        if self._is_local:
            self.uri = os.path.realpath(self.uri)
        self._filesystem, self._path = open_filesystem(self.uri, storage_options)
        with self._errors():
            self._check_name()
            if self._is_local:
                self._check_folder()

    def write(self, content: bytes) -> None:
        """Write the whole file.

        Raises:
            OutputError: it could not be written, or is there meanwhile; what was there before still is.
            StorageUnavailableError: storage did not answer.
        """
        with self._errors():
            self._check_name()  # once more: the work may have taken hours
            if not self._is_local:  # an object appears when it is whole
                put = partial(self._filesystem.pipe_file, self._path, content)
                retried(put, what=f"write {self.uri}", denied_is_final=False)
                return
            folder = os.path.dirname(self._path)
            os.makedirs(folder, exist_ok=True)
            # Not the file's own name and more: that may be as long as a name can be.
            unfinished = os.path.join(folder, f".{uuid.uuid4().hex}.unfinished")
            try:
                with open(unfinished, "xb") as file:
                    file.write(content)
                if self._overwrite:
                    os.replace(unfinished, self._path)
                else:
                    _name_anew(unfinished, self._path)
            finally:
                if os.path.exists(unfinished):
                    os.remove(unfinished)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with output_errors(self.uri, _MESSAGE):
            yield

    def _check_name(self) -> None:
        """Nothing must have the name, but for a file that may be replaced."""
        found = retried(self._type, what=f"look at {self.uri}")
        if found == "directory":
            raise OutputError(f"{self.uri} is a folder: name a file in it")
        if found not in (None, "file"):
            raise OutputError(f"{self.uri} is not a regular file: give another name")
        if found is not None and not self._overwrite:
            remedy = "or delete it" if self._overwrite is None else "or --overwrite"
            raise OutputError(f"{self.uri} exists already: give another name, {remedy}")

    def _type(self) -> str | None:
        try:
            self._filesystem.invalidate_cache()
            found: str = self._filesystem.info(self._path)["type"]
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


def _name_anew(path: str, name: str) -> None:
    """Give a file another name that nothing else has.

    Raises:
        FileExistsError: something has it.
    """
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        os.rename(path, name)
