"""What a test of Delta through the proxy runs in a process of its own.

deltalake 1.6.6 waits for some requests (history) with the GIL held, so a proxy in the same process could not answer.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pyarrow as pa

from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.tables.delta import create_table
from sam_pipeline.storage.tables.fenced_table import FencedTable, put_parquet

SCHEMA = pa.schema([pa.field("image_id", pa.int64(), nullable=False), pa.field("data", pa.string())])


def create_and_commit(uri: str, options: StorageOptions, num_commits: int) -> None:
    """Create a table and commit files of two rows each to it, from another process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_create_and_commit, uri, options, num_commits).result()


def _create_and_commit(uri: str, options: StorageOptions, num_commits: int) -> None:
    table = create_table(uri, SCHEMA, {"made_by": "test"}, options)
    for number in range(num_commits):
        rows = pa.table({"image_id": [2 * number, 2 * number + 1], "data": [f"row {number}"] * 2}, schema=SCHEMA)
        file = put_parquet(uri, rows, options, row_group_size=10, table_id="none")
        FencedTable(table, SCHEMA).commit([file], epoch=number + 1)
