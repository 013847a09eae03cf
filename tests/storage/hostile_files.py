"""Small files that stand for far more than they are, each made by a function of a folder that gives its path."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MIB = 2**20


def parquet_of_one_value(
    folder: Path, column: str, value: bytes | str, num_rows: int = 2000, beside: str | None = None
) -> Path:
    """Rows that share one value of a dictionary: a kilobyte; beside may be a column of boxes."""
    indices = pa.array([0] * num_rows, pa.int32())
    columns: dict[str, Any] = {column: pa.DictionaryArray.from_arrays(indices, pa.array([value]))}
    if beside is not None:
        columns[beside] = [[1.0, 2.0, 3.0, 4.0]] * num_rows
    path = folder / "one-value.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    return path


def parquet_of_zeros(folder: Path, column: str, kind: pa.DataType, num_rows: int = 200) -> Path:
    """Pages that shrink to nothing, each with a value of its own; the first rows are small."""
    path = folder / "zeros.parquet"
    small, large = (b"x", bytes(32 * MIB)) if pa.types.is_binary(kind) else ("x", "0" * (32 * MIB))
    with pq.ParquetWriter(path, pa.schema([(column, kind)]), compression="zstd", use_dictionary=False) as writer:
        for values in ([small] * 100_000, *[[large]] * num_rows):
            writer.write_table(pa.table({column: pa.array(values, kind)}))
    return path


def parquet_of_one_group(folder: Path, column: str, kind: pa.DataType, num_rows: int = 50) -> Path:
    """The same in one row group, in which the mean is small."""
    path = folder / "one-group.parquet"
    is_binary = pa.types.is_binary(kind)
    small, large = (b"x", bytes(32 * MIB)) if is_binary else ("x", "0" * (32 * MIB))
    values = pa.array([small] * 1_000_000 + [large] * num_rows, pa.large_binary() if is_binary else pa.large_string())
    options: dict[str, Any] = {"use_dictionary": False, "write_batch_size": 1, "store_schema": False}
    pq.write_table(pa.table({column: values}), path, compression="zstd", row_group_size=2_000_000, **options)
    return path


def parquet_of_long_lists(folder: Path, num_rows: int = 300) -> Path:
    """Boxes of a million times the same number: 2.4 GB of them."""
    path = folder / "lists.parquet"
    kind = pa.list_(pa.float64())
    row = pa.table({"file_name": ["a.png"], "bbox": pa.array([[1.0] * MIB], kind)})
    with pq.ParquetWriter(path, row.schema, compression="zstd") as writer:
        for _ in range(num_rows // 100):
            writer.write_table(pa.concat_tables([row] * 100), row_group_size=100)
    return path


def parquet_with_a_huge_footer(folder: Path) -> Path:
    """Hundreds of thousands of columns' descriptions."""
    path = folder / "footer.parquet"
    table = pa.table({f"column_{number}": pa.array([], pa.int8()) for number in range(2000)})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(100):
            writer.write_table(pa.table({name: pa.array([1], pa.int8()) for name in table.column_names}))
    return path


def tar_of_zeros(folder: Path, num_bytes: int = 6 * 10**9) -> Path:
    """A picture of gigabytes in an archive of kilobytes."""
    member = tarfile.TarInfo("0001.jpg")
    member.size = num_bytes
    path = folder / "shard.tar.bz2"
    with bz2.open(path, "wb") as file:
        file.write(member.tobuf())
        for _ in range(num_bytes // (64 * MIB)):
            file.write(bytes(64 * MIB))
    return path


def zip_of_names(folder: Path, num_members: int = 2_000_000) -> Path:
    """A directory of millions of members without an archive before it, in zip64."""
    path = folder / "names.zip"
    name = b"%07d.jpg"
    entry = struct.Struct("<4s4B4HL2L5H2L")
    size = 0
    with path.open("wb") as file:
        for first in range(0, num_members, 10_000):
            block = b"".join(
                entry.pack(b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0x21, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0) + name % number
                for number in range(first, first + 10_000)
            )
            size += file.write(block)
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, num_members, num_members, size, 0)
        file.write(end64 + struct.pack("<4sLQL", b"PK\6\7", 0, size, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    return path


def sparse(path: Path, start: bytes, num_bytes: int) -> Path:
    """A file that is zeros after its start, and takes no room on the disk."""
    path.write_bytes(start)
    os.truncate(path, num_bytes)
    return path


def csv_of_one_field(folder: Path, num_bytes: int = 10**10) -> Path:
    """One field of gigabytes; a sparse file."""
    return sparse(folder / "field.csv", b'uri\n"', num_bytes)


def json_lines_of_one_line(folder: Path, num_bytes: int = 10**10) -> Path:
    """One line of gigabytes; a sparse file."""
    return sparse(folder / "line.jsonl", b'{"uri": "', num_bytes)


def json_of_gigabytes(folder: Path, num_bytes: int = 10**10) -> Path:
    """A COCO file that is only large; sparse."""
    return sparse(folder / "coco.json", b'{"images": [', num_bytes)


def json_of_depth(folder: Path) -> Path:
    """A COCO file of brackets."""
    path = folder / "deep.json"
    path.write_bytes(b'{"images": ' + b"[" * (50 * MIB))
    return path


def gzip_of_lines(folder: Path, num_bytes: int = 4 * 10**9) -> Path:
    """A list of gigabytes of empty lines."""
    path = folder / "lines.csv.gz"
    with gzip.open(path, "wb", 6) as file:
        file.write(b"uri\n")
        for _ in range(num_bytes // (64 * MIB)):
            file.write(b"\n" * (64 * MIB))
    return path


BINARY, TEXT = pa.binary(), pa.string()

INPUTS: dict[str, Callable[[Path], Path]] = {
    "Parquet images, one value": lambda folder: parquet_of_one_value(folder, "image", bytes(32 * MIB)),
    "Parquet images, one group": lambda folder: parquet_of_one_group(folder, "image", BINARY),
    "Parquet list, one value": lambda folder: parquet_of_one_value(folder, "uri", "u" * (32 * MIB)),
    "Parquet list, zeros": lambda folder: parquet_of_zeros(folder, "uri", TEXT),
    "Parquet list, one group": lambda folder: parquet_of_one_group(folder, "uri", TEXT),
    "Parquet footer": parquet_with_a_huge_footer,
    "tar.bz2 of 6 GB": tar_of_zeros,
    "zip of two million members": zip_of_names,
    "CSV of one field": csv_of_one_field,
    "JSON Lines of one line": json_lines_of_one_line,
    "JSON of 10 GB": json_of_gigabytes,
    "JSON of brackets": json_of_depth,
    "gzip of 4 GB of lines": gzip_of_lines,
}
"""To be planned from."""
