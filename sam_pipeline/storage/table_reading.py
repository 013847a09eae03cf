"""Reading the files of a table: some of them whole, some columns of all, or all columns of some images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.delta import REQUESTS_AT_ONCE, DataFile, committed_files, open_table, output_errors
from sam_pipeline.storage.delta_place import Table, delta_storage_options, delta_uri
from sam_pipeline.storage.filesystem import StorageOptions, join_uri
from sam_pipeline.storage.retrying import retried

_FILES_AHEAD = 1024

ImageIds = Sequence[int] | npt.NDArray[np.int64]


def file_opener(
    table: Table, files: Sequence[DataFile], options: StorageOptions, *, pre_buffer: bool = True
) -> Callable[[DataFile], pq.ParquetFile]:
    """What opens these files of a table, from any thread and without asking storage for their sizes.

    Args:
        table: the table.
        files: the ones to open.
        options: storage options.
        pre_buffer: ask for all columns and row groups at once; else each is a request, one after another. It is done by
            threads of Arrow, which need Python once more to let go of a file; a process that ends meanwhile aborts
            (pyarrow 26). So False where reading may be the last thing that a process does.
    """
    sizes = {file.path: file.size_bytes for file in files}
    handler = DeltaStorageHandler(delta_uri(table.uri), delta_storage_options(table.uri, options), sizes)
    filesystem = pa.fs.PyFileSystem(handler)
    return lambda file: pq.ParquetFile(filesystem.open_input_file(file.path), pre_buffer=pre_buffer)


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
    with output_errors(uri):
        # Callers have threads of their own, one a file; pyarrow's would split the work on a few rows.
        return retried(
            lambda: open_file(file).read(columns, use_threads=False), what=f"read {uri}", denied_is_final=False
        )


def read_columns(
    table: Table, columns: Sequence[str], options: StorageOptions, *, pre_buffer: bool = True
) -> Iterator[pa.Table]:
    """Read small columns of every file of the table's snapshot; a table for each file.

    Not as a pyarrow dataset: that keeps the metadata of every file it has read, some 70 KB for one of our shards.

    Args:
        table: the snapshot.
        columns: their names.
        options: storage options.
        pre_buffer: see file_opener.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    files = committed_files(table)
    open_file = file_opener(table, files, options, pre_buffer=pre_buffer)

    def read(file: DataFile) -> pa.Table:
        return read_file(table, file, open_file, columns)

    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    try:
        for start in range(0, len(files), _FILES_AHEAD):
            yield from pool.map(read, files[start : start + _FILES_AHEAD])
    finally:
        pool.shutdown(cancel_futures=True)


def read_image_rows(uri: str, image_ids: ImageIds, options: StorageOptions) -> pa.Table:
    """Read the rows of some images from the table's newest version; those of a file keep their order.

    Args:
        uri: of the table.
        image_ids: ascending.
        options: storage options.

    Raises:
        OutputError: there is no such table, or a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    # Not denied for good: workers read plans for days, and a role's credentials are renewed in between.
    table = open_table(uri, options, denied_is_final=False)
    if table is None:
        raise OutputError(f"the table disappeared: {uri}")
    wanted = pc.field("image_id").isin(pa.array(image_ids, pa.int64()))
    if len(image_ids):  # which files and row groups hold them is told by the bounds
        wanted &= (pc.field("image_id") >= int(image_ids[0])) & (pc.field("image_id") <= int(image_ids[-1]))
    with output_errors(uri):
        return retried(
            lambda: table.to_pyarrow_dataset().to_table(filter=wanted), what=f"read {uri}", denied_is_final=False
        )
