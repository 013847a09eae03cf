"""Prompts from the columns of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from sam_pipeline.storage.inputs.lists.named_uris import MAX_NAME_LENGTH
from sam_pipeline.storage.objects.bounded_parquet import bounded_parquet, column_batches
from sam_pipeline.storage.objects.object_reading import input_errors, open_object
from sam_pipeline.storage.prompts.box_columns import box_prompts, is_list, key_texts, may_name_images
from sam_pipeline.storage.prompts.prompt_rows import (
    IMAGE_ID,
    KEYED_PROMPTS,
    MASKS_AT_ONCE,
    OTHER_COLUMNS,
    PROMPT_COLUMNS,
    REGION_COLUMNS,
    TABLE_ROWS,
    MakeRow,
    PromptOptions,
    key_columns,
)

_BLOCK_BYTES = 4 << 20


def parquet_prompts(uri: str, prompt_options: PromptOptions, make: MakeRow, *, are_regions: bool) -> Iterator[pa.Table]:
    """Read the columns of a Parquet file that are used. See prompt_files.read_prompts.

    The prompt_id is the number of the row, from 0. Prompts that are boxes and no more are read a column at a time, all
    others row by row.
    """
    num_rows = 0
    for batch in _batches(uri, prompt_options, are_regions=are_regions):
        boxes, others = None, np.arange(batch.num_rows)
        if not are_regions:
            boxes, others = box_prompts(batch, num_rows, prompt_options.prompting.bbox_format)
        yield _merged(boxes, _row_by_row(batch, num_rows, others, make), others)
        num_rows += batch.num_rows


def _batches(uri: str, prompt_options: PromptOptions, *, are_regions: bool) -> Iterator[pa.RecordBatch]:
    """The columns that are used, with the image's name as text in `key`, and is_image_id."""
    with open_object(uri, prompt_options.storage) as file, input_errors(f"read {uri}"):
        parquet = bounded_parquet(file, _BLOCK_BYTES)
        columns = {field.name: may_name_images(field.type) for field in parquet.schema_arrow}
        keys = _needed(parquet, key_columns(uri, columns, are_regions=are_regions))
        used = REGION_COLUMNS if are_regions else (*PROMPT_COLUMNS, *OTHER_COLUMNS)
        fields = [name for name in used if name in columns]
        lengths = dict.fromkeys([*keys, *fields], MAX_NAME_LENGTH + 1)
        batch_rows = MASKS_AT_ONCE if "mask_input" in fields else TABLE_ROWS
        for batch in column_batches(file, lengths, batch_rows, _BLOCK_BYTES):
            arrays = [*_named(batch, keys), *(batch.column(name) for name in fields)]
            yield pa.RecordBatch.from_arrays(arrays, names=["key", "is_image_id", *fields])


def _needed(parquet: pq.ParquetFile, keys: Sequence[str]) -> list[str]:
    """The columns up to the first that names an image in every row, so that no other is read for nothing."""
    for number, key in enumerate(keys, 1):
        if _names_all(parquet, key):
            return list(keys[:number])
    return list(keys)


def _names_all(parquet: pq.ParquetFile, key: str) -> bool:
    """Whether the file says that a column has no nulls. Numbers with a fraction name nothing, and are not counted."""
    if pt.is_floating(parquet.schema_arrow.field(key).type):
        return False
    metadata = parquet.metadata
    leaf = next(index for index in range(metadata.num_columns) if metadata.schema.column(index).path == key)
    pieces = [metadata.row_group(group).column(leaf).statistics for group in range(metadata.num_row_groups)]
    return all(piece is not None and piece.has_null_count and piece.null_count == 0 for piece in pieces)


def _named(batch: pa.RecordBatch, keys: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """What names the image of each row: the first of its values that is text or a whole number, and is_image_id."""
    texts = [key_texts(batch.column(key)) for key in keys]
    named = pc.coalesce(*texts)
    if keys[-1] != IMAGE_ID:
        return named, pa.repeat(pa.scalar(False), batch.num_rows)
    names = pc.coalesce(pa.nulls(batch.num_rows, pa.string()), *texts[:-1])
    return named, pc.and_(names.is_null(), texts[-1].is_valid())


def _row_by_row(
    batch: pa.RecordBatch, num_rows_before: int, numbers: np.ndarray[Any, np.dtype[np.int64]], make: MakeRow
) -> pa.Table:
    rows = batch.take(pa.array(numbers))
    masks = rows.column("mask_input") if "mask_input" in rows.schema.names else None
    made = []
    fields = [name for name in rows.schema.names if name != "mask_input"]
    for index, row in enumerate(rows.select(fields).to_pylist()):
        if masks is not None:
            row["mask_input"] = _mask(masks[index])
        made.append(make(row["key"], num_rows_before + int(numbers[index]), row) | {"is_image_id": row["is_image_id"]})
    return pa.Table.from_pylist(made, schema=KEYED_PROMPTS)


def _mask(value: pa.Scalar) -> object:
    """A mask of lists as an array, if it is one: as Python's numbers it would take a hundred times the memory."""
    if not value.is_valid or not is_list(value.type):
        return value.as_py()
    numbers, shape = value.values, [len(value.values)]
    while is_list(numbers.type):
        lengths = pc.unique(pc.list_value_length(numbers)).to_pylist()
        if numbers.null_count or len(lengths) != 1:
            return value.as_py()
        numbers, shape = numbers.flatten(), [*shape, lengths[0]]
    if not (pt.is_integer(numbers.type) or pt.is_floating(numbers.type)):
        return value.as_py()
    return numbers.to_numpy(zero_copy_only=False).reshape(shape)


def _merged(boxes: pa.Table | None, others: pa.Table, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
    """All rows in their order; numbers: those of others."""
    if boxes is None or not boxes.num_rows:
        return others
    if not others.num_rows:
        return boxes
    is_other = np.zeros(boxes.num_rows + others.num_rows, bool)
    is_other[numbers] = True
    return pa.concat_tables([boxes, others]).take(pa.array(np.argsort(np.argsort(is_other, kind="stable"))))
