"""Reading an object from its beginning to its end, each part tried again as every storage call is."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sam_pipeline.errors import InputError, SamPipelineError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.safety.regular_files import NotRegularFileError, open_regular
from sam_pipeline.storage.objects.decompression import gunzipped
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.objects.range_file import PART_BYTES, ObjectFile
from sam_pipeline.storage.objects.retrying import retried

_MAX_JSON_BYTES = 2**30


@contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Turn what storage and its libraries raise into an InputError of one line; what is the rest of "cannot …".

    Raises:
        SamPipelineError, MemoryError: as they are.
        InputError: for any other exception.
    """
    try:
        yield
    except (SamPipelineError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"cannot {what}: {one_line(error)}") from error


def open_object(uri: str, storage_options: StorageOptions) -> io.BufferedReader:
    """Open an object, local or remote, for reading and seeking; of a remote one some parts are held in memory.

    Raises:
        InputError: nothing there, a folder, or no permission.
        StorageUnavailableError: the storage did not answer for two minutes; also when reading.
    """
    filesystem, path = open_filesystem(uri, storage_options)
    with input_errors(f"read {uri}"):
        try:
            info = retried(partial(filesystem.info, path), what=f"read {uri}")
            if "file" in filesystem.protocol:
                return open_regular(path)
        except FileNotFoundError:
            raise InputError(f"input not found: {uri}") from None
        except IsADirectoryError:
            raise InputError(f"cannot read {uri}: it is a folder") from None
        except NotRegularFileError as error:
            raise InputError(f"cannot read {uri}: {error.strerror}") from None
    if info["type"] != "file":
        raise InputError(f"cannot read {uri}: it is a folder")
    retry = partial(retried, what=f"read {uri}", denied_is_final=False)
    return io.BufferedReader(ObjectFile(filesystem, path, info, retry), PART_BYTES)


def read_head(uri: str, storage_options: StorageOptions, num_bytes: int) -> bytes | None:
    """Read the first bytes of an object; None where there is none of this name, but a folder perhaps.

    Raises:
        InputError: no permission.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    filesystem, path = open_filesystem(uri, storage_options)
    with input_errors(f"read {uri}"):
        try:
            info = retried(partial(filesystem.info, path), what=f"read {uri}")
        except (FileNotFoundError, NotADirectoryError):
            return None
    if info["type"] != "file":
        return None
    with open_object(uri, storage_options) as file:
        return file.read(num_bytes)


def read_json(uri: str, storage_options: StorageOptions) -> Any:
    """Read an object's JSON into memory, where it may take twenty times its size; it is gzipped if it is called .gz.

    Raises:
        InputError: nothing there, a folder, no permission, larger than 1 GiB, or not JSON.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    # Errors here: it is too large, it is not gzip, or it unpacks to too much.
    with open_object(uri, storage_options) as file, input_errors(f"read {uri}"):
        if (num_bytes := file.seek(0, io.SEEK_END)) > _MAX_JSON_BYTES:
            raise ValueError(f"{num_bytes} bytes of JSON, the limit is {_MAX_JSON_BYTES}; use JSON Lines or Parquet")
        file.seek(0)
        unpacked: Any = gunzipped(file) if uri.lower().endswith(".gz") else file
        content = unpacked.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes of JSON; use Parquet")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        if _are_json_lines(content):
            raise InputError(f"cannot read {uri}: it holds JSON Lines: call it .jsonl") from None
        raise InputError(f"cannot read {uri}: not JSON ({one_line(error)})") from error


def _are_json_lines(content: bytes) -> bool:
    """Whether text that is not JSON as a whole has a JSON object in each of its first two lines."""
    try:
        return all(isinstance(json.loads(line), dict) for line in content.split(b"\n", 2)[:2])
    except (ValueError, RecursionError):
        return False
