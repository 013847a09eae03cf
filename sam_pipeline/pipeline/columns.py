"""The columns that cross from stage to stage, as Arrow; nothing is pickled.

chunks      image_ids                                        driver → reading
images      image_id, uri, height, width, status, error, extra, prompts (see pack_prompts),
            crops: list<struct<height, width, pixels>>       reading → encoder
embeddings  the same without crops, with
            image_embeddings: list<binary>, one a crop       encoder → decoder
results     MASKS_SCHEMA                                     decoder → writing
shards      one row a shard                                  writing → driver
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam_pipeline.storage.delta import DataFile
from sam_pipeline.storage.mask_table import Shard
from sam_pipeline.storage.schema import MASK_TYPE, MASKS_SCHEMA, PROMPT_TYPE

CROPS = pa.list_(pa.struct([("height", pa.int32()), ("width", pa.int32()), ("pixels", pa.large_binary())]))
EMBEDDINGS = pa.list_(pa.large_binary())

_FOUND = ("num_masks", "masks", "prompt_errors")
_IMAGE_FIELDS = [field for field in MASKS_SCHEMA if field.name not in _FOUND]
IMAGES = pa.schema([*_IMAGE_FIELDS, pa.field("prompts", pa.large_binary()), pa.field("crops", CROPS)])
_PROMPTS = pa.schema(list(PROMPT_TYPE))
SHARDS = pa.schema(
    [
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("num_rows", pa.int64()),
        ("min_image_id", pa.int64()),
        ("max_image_id", pa.int64()),
        ("image_ids", pa.binary()),
    ]
)


def chunks_of(pending_ids: npt.NDArray[np.int64], chunk_rows: int) -> Iterator[pa.Table]:
    """Cut ids that are left to do into chunks of one reading task each.

    Args:
        pending_ids: (N,) int64, ascending.
        chunk_rows: ids a chunk.

    Yields:
        One-row tables: the ids as int64 bytes.
    """
    for first in range(0, len(pending_ids), chunk_rows):
        ids = pending_ids[first : first + chunk_rows]
        yield pa.table({"image_ids": [ids.tobytes()]})


def crop_column(crops_by_image: Sequence[Sequence[npt.NDArray[np.uint8]]]) -> pa.Array:
    """Pack resized crops, (h, w, 3) uint8 each, a list for every image."""
    return pa.array(
        [
            [{"height": crop.shape[0], "width": crop.shape[1], "pixels": crop.tobytes()} for crop in crops]
            for crops in crops_by_image
        ],
        CROPS,
    )


def crops_by_image(images: pa.Table) -> list[list[npt.NDArray[np.uint8]]]:
    """Unpack what crop_column packed; the arrays are views of the table's buffers."""
    return [
        [
            np.frombuffer(crop["pixels"].as_buffer(), np.uint8).reshape(
                crop["height"].as_py(), crop["width"].as_py(), 3
            )
            for crop in crops
        ]
        for crops in images["crops"]
    ]


def pack_prompts(prompts: Sequence[dict[str, Any]]) -> bytes | None:
    """The prompts of an image, rows of PROMPT_TYPE, as an Arrow stream; None where there are none.

    As a nested column they would be two dozen arrays of every row, each of which Ray serializes by itself, and most
    runs have none.
    """
    if not prompts:
        return None
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, _PROMPTS) as writer:
        writer.write_table(pa.Table.from_pylist(list(prompts), schema=_PROMPTS))
    return stream.getvalue()


def unpack_prompts(packed: bytes | None) -> list[dict[str, Any]]:
    """What pack_prompts packed."""
    if packed is None:
        return []
    rows: list[dict[str, Any]] = pa.ipc.open_stream(packed).read_all().to_pylist()
    return rows


def result_table(
    embeddings: pa.Table,
    masks_by_image: Sequence[Sequence[dict[str, Any]]],
    errors_by_image: Sequence[Sequence[dict[str, Any]]],
) -> pa.Table:
    """Replace the embeddings and prompts of a batch by its masks, and by errors of prompts where there are any."""
    columns = {field.name: embeddings[field.name] for field in _IMAGE_FIELDS}
    columns["num_masks"] = pa.array([len(masks) for masks in masks_by_image], pa.int32())
    columns["masks"] = pa.array(masks_by_image, pa.list_(MASK_TYPE))
    errors_type = MASKS_SCHEMA.field("prompt_errors").type
    columns["prompt_errors"] = pa.array([errors or None for errors in errors_by_image], errors_type)
    return pa.Table.from_arrays([columns[name] for name in MASKS_SCHEMA.names], schema=MASKS_SCHEMA)


def shard_row(shard: Shard) -> pa.Table:
    """A shard's descriptor as one row."""
    row = {**asdict(shard.file), "image_ids": shard.image_ids.tobytes()}
    return pa.Table.from_pylist([row], schema=SHARDS)


def shards_of(rows: pa.Table) -> list[Shard]:
    """Unpack what shard_row packed."""
    shards = []
    for row in rows.to_pylist():
        image_ids = np.frombuffer(row.pop("image_ids"), np.int64)
        shards.append(Shard(DataFile(**row), image_ids))
    return shards
