"""Reading the files of a table: some of them whole, some columns of all, or all columns of some images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler

from sam_pipeline.errors import DamagedFileError, OutputError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import REQUESTS_AT_ONCE, DataFile, committed_files, open_table, output_errors
from sam_pipeline.storage.tables.delta_place import Table, delta_storage_options, delta_uri

_FILES_AHEAD = 1024
# Prompts with masks are files of 256 MB.
_WHOLE_FILES_AT_ONCE = 2

ImageIds = Sequence[int] | npt.NDArray[np.int64]


class _WatchedFile:
    """A file that tells how much is read of it, once on_read is set, for pyarrow to read from."""

    mode = "rb"
    on_read: Callable[[int], object] | None = None

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    def read(self, num_bytes: int = -1) -> bytes:
        content: bytes = self._file.read(None if num_bytes < 0 else num_bytes)
        if self.on_read is not None:
            self.on_read(len(content))
        return content


def file_opener(
    table: Table,
    files: Sequence[DataFile],
    storage_options: StorageOptions,
    *,
    pre_buffer: bool = True,
    on_read: Callable[[int], object] | None = None,
) -> Callable[[DataFile], pq.ParquetFile]:
    """Return a function that opens these files of a table; any thread may call it, and it asks for no file's size.

    Args:
        table: the table.
        files: the ones to open.
        storage_options: of fsspec.
        pre_buffer: ask for all columns and row groups in parallel; else for one after another. Arrow's threads do this,
            and call Python once more to release a file: a process that ends before that aborts (pyarrow 26). So False
            where reading may be the last thing that a process does.
        on_read: called with the number of bytes of each read, except that of the footer.
    """
    sizes = {file.path: file.size_bytes for file in files}
    filesystem = table_filesystem(table, storage_options, sizes)

    def open_file(file: DataFile) -> pq.ParquetFile:
        source = filesystem.open_input_file(file.path)
        watched = source if on_read is None else _WatchedFile(source)
        parquet = pq.ParquetFile(watched, pre_buffer=pre_buffer, page_checksum_verification=True)
        if on_read is not None:
            watched.on_read = on_read
        return parquet

    return open_file


def table_filesystem(table: Table, storage_options: StorageOptions, sizes: dict[str, int] | None = None) -> Any:
    """The folder of a table, read by the same client as its log; storage is not asked for sizes that are given."""

    def handler() -> DeltaStorageHandler:
        return DeltaStorageHandler(delta_uri(table.uri), delta_storage_options(table.uri, storage_options), sizes)

    with output_errors(table.uri):
        return pa.fs.PyFileSystem(retried(handler, what=f"read {table.uri}", denied_is_final=False))


def checked_opener(table: Table, storage_options: StorageOptions) -> Callable[[DataFile], pq.ParquetFile]:
    """Return a function that fetches a file of a table, compares it with its checksum, and opens it from memory.

    Page checksums, which every reader looks at, leave out footers and the headers of pages. What is opened raises
    DamagedFileError for a file that is missing or altered, OutputError for one that cannot be fetched, and
    StorageUnavailableError.
    """
    filesystem = table_filesystem(table, storage_options)

    def fetch(path: str) -> pa.Buffer:
        with filesystem.open_input_file(path) as source:
            return source.read_buffer()

    def open_checked(file: DataFile) -> pq.ParquetFile:
        uri = join_uri(table.uri, file.path)
        try:
            with output_errors(uri):
                content = retried(partial(fetch, file.path), what=f"read {uri}", denied_is_final=False)
        except OutputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise DamagedFileError(f"{uri} is missing") from error
            raise
        if file.sha256 is not None and hashlib.sha256(content).hexdigest() != file.sha256:
            raise DamagedFileError(f"{uri} is damaged: its bytes are not those that were written")
        with _damage_errors(uri):
            return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)

    return open_checked


def read_checked(
    file: DataFile, open_checked: Callable[[DataFile], pq.ParquetFile], schema: pa.Schema
) -> Iterator[pa.Table]:
    """The rows of a file that checked_opener opens, one row group after another, in the types of a schema.

    Raises:
        DamagedFileError, OutputError, StorageUnavailableError: see checked_opener.
    """
    parquet = open_checked(file)
    for index in range(parquet.num_row_groups):
        with _damage_errors(file.path):
            rows = parquet.read_row_group(index, use_threads=False).select(schema.names).cast(schema)
        yield rows


@contextmanager
def _damage_errors(name: str) -> Iterator[None]:
    """Turn any error in reading a file from memory into a DamagedFileError."""
    try:
        yield
    except Exception as error:
        raise DamagedFileError(f"{name} is damaged: {one_line(error)}") from error


def read_file(
    table: Table,
    file: DataFile,
    open_file: Callable[[DataFile], pq.ParquetFile],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read a file of a table, all columns or some.

    Raises:
        OutputError: it is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    uri = join_uri(table.uri, file.path)
    hint = "; the command verify says whether it is damaged, and what to do"
    with output_errors(uri, "cannot read {uri}: {error}" + hint):
        # Callers have threads of their own, one a file; pyarrow's would split the work on a few rows.
        return retried(
            lambda: open_file(file).read(columns, use_threads=False), what=f"read {uri}", denied_is_final=False
        )


def read_columns(
    table: Table,
    columns: Sequence[str],
    storage_options: StorageOptions,
    *,
    files: Sequence[DataFile] | None = None,
    pre_buffer: bool = True,
    is_checked: bool = False,
) -> Iterator[pa.Table]:
    """Read small columns of files of the table's snapshot; a table for each file, in their order.

    Not as a pyarrow dataset: that keeps the metadata of every file it has read, some 70 KB for one of our shards.

    Args:
        table: the snapshot.
        columns: their names.
        storage_options: of fsspec.
        files: some of them; None takes all.
        pre_buffer: see file_opener.
        is_checked: read each file whole, and compare it with what was written; see checked_opener.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    files = committed_files(table) if files is None else files
    if is_checked:
        open_file = checked_opener(table, storage_options)
    else:
        open_file = file_opener(table, files, storage_options, pre_buffer=pre_buffer)

    def read(file: DataFile) -> pa.Table:
        return read_file(table, file, open_file, columns)

    at_once, ahead = (_WHOLE_FILES_AT_ONCE,) * 2 if is_checked else (REQUESTS_AT_ONCE, _FILES_AHEAD)
    pool = ThreadPoolExecutor(at_once)
    try:
        for start in range(0, len(files), ahead):
            yield from pool.map(read, files[start : start + ahead])
    finally:
        pool.shutdown(cancel_futures=True)


def read_image_rows(uri: str, image_ids: ImageIds, storage_options: StorageOptions) -> pa.Table:
    """Read the rows of some images from the table's newest version; those of a file keep their order.

    Args:
        uri: of the table.
        image_ids: ascending.
        storage_options: of fsspec.

    Raises:
        OutputError: there is no such table, or a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    # Not denied for good: workers read plans for days, and a role's credentials are renewed in between.
    table = open_table(uri, storage_options, denied_is_final=False)
    if table is None:
        raise OutputError(f"the table disappeared: {uri}")
    wanted = pc.field("image_id").isin(pa.array(image_ids, pa.int64()))
    if len(image_ids):  # the bounds let files and row groups be skipped
        wanted &= (pc.field("image_id") >= int(image_ids[0])) & (pc.field("image_id") <= int(image_ids[-1]))
    scan = ds.ParquetFragmentScanOptions(pre_buffer=True, page_checksum_verification=True)
    with output_errors(uri):
        return retried(
            lambda: table.to_pyarrow_dataset().to_table(filter=wanted, fragment_scan_options=scan),
            what=f"read {uri}",
            denied_is_final=False,
        )
