"""Parquet files with images in their rows."""

import pyarrow as pa
import pyarrow.parquet as pq

from sam_pipeline.storage.inputs.containers.parquet_reading import read_parquet_rows
from sam_pipeline.storage.inputs.source_object import SourceObject

HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def data_of(row):
    return f"image {row} ".encode() * 20


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return SourceObject(str(path), path.stat().st_size, "v1")


def hugging_face(values):
    return pa.array(values, HUGGING_FACE)


def read(container, column, rows):
    return dict(read_parquet_rows(container.uri, column, rows, {}))
