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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam_pipeline.masks.prompts import PromptRow
from sam_pipeline.storage.tables.delta import DataFile
from sam_pipeline.storage.tables.results import Shard
from sam_pipeline.storage.tables.schema import MASK_TYPE, MASKS_SCHEMA, PROMPT_TYPE

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
        ("num_by_status", pa.map_(pa.string(), pa.int64())),
        ("num_masks", pa.int64()),
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


@dataclass(frozen=True)
class PreparedImage:
    """An image as the encoder gets it: a row of IMAGES."""

    image_id: int
    uri: str
    height: int | None
    width: int | None
    status: str
    error: str | None
    extra: str | None
    prompts: bytes | None
    """See pack_prompts."""
    crops: Sequence[npt.NDArray[np.uint8]]
    """(h, w, 3) each; none of an image that could not be read, or asks for nothing."""


def images_table(images: Sequence[PreparedImage]) -> pa.Table:
    """Images as a table of IMAGES."""
    columns = [
        crop_column([image.crops for image in images])
        if field.name == "crops"
        else pa.array([getattr(image, field.name) for image in images], field.type)
        for field in IMAGES
    ]
    return pa.Table.from_arrays(columns, schema=IMAGES)


def crop_column(crops_by_image: Sequence[Sequence[npt.NDArray[np.uint8]]]) -> pa.Array:
    """Pack resized crops, (h, w, 3) uint8 each, a list for every image; all pixels are copied once, into one buffer."""
    crops = [crop for crops in crops_by_image for crop in crops]
    offsets = _offsets([crop.size for crop in crops], np.int64)
    buffer = pa.allocate_buffer(int(offsets[-1]))
    pixels = np.frombuffer(buffer, np.uint8)
    for crop, start, end in zip(crops, offsets, offsets[1:], strict=False):
        pixels[start:end].reshape(crop.shape)[:] = crop
    sizes = np.array([crop.shape[:2] for crop in crops], np.int32).reshape(-1, 2)
    columns = [pa.array(sizes[:, 0]), pa.array(sizes[:, 1]), _binary_array(offsets, buffer)]
    structs = pa.StructArray.from_arrays(columns, fields=list(CROPS.value_type))
    return _lists(structs, [len(crops) for crops in crops_by_image], CROPS)


def num_crops(images: pa.Table) -> int:
    """How many crops images have together."""
    return sum(len(chunk.flatten()) for chunk in images["crops"].chunks)


def crops_by_image(images: pa.Table) -> list[list[npt.NDArray[np.uint8]]]:
    """Unpack what crop_column packed; the arrays are views of the table's buffers."""
    unpacked = []
    for chunk in images["crops"].chunks:
        heights, widths, pixels = chunk.flatten().flatten()
        sizes = zip(heights.to_numpy(), widths.to_numpy(), strict=True)
        crops = (
            np.frombuffer(view, np.uint8).reshape(height, width, 3)
            for view, (height, width) in zip(_views(pixels), sizes, strict=True)
        )
        unpacked += [list(islice(crops, length)) for length in chunk.value_lengths().to_numpy()]
    return unpacked


def embedding_column(embeddings: npt.NDArray[np.uint8], num_crops: Sequence[int]) -> pa.Array:
    """Embeddings as lists, one for every image; the column is a view of the array.

    Args:
        embeddings: (N, bytes of an embedding) uint8, contiguous, which must not be written to afterwards.
        num_crops: of each image, whose sum is N.
    """
    offsets = _offsets([embeddings.shape[1]] * len(embeddings), np.int64)
    return _lists(_binary_array(offsets, pa.py_buffer(embeddings)), num_crops, EMBEDDINGS)


def embeddings_by_image(embeddings: pa.Table) -> list[list[memoryview]]:
    """Unpack what embedding_column packed; views of the table's buffers."""
    unpacked = []
    for chunk in embeddings["image_embeddings"].chunks:
        views = iter(_views(chunk.flatten()))
        unpacked += [list(islice(views, length)) for length in chunk.value_lengths().to_numpy()]
    return unpacked


def _offsets(lengths: Sequence[int], dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    offsets = np.zeros(len(lengths) + 1, dtype)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _binary_array(offsets: npt.NDArray[np.int64], buffer: pa.Buffer) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets), buffer]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _lists(values: pa.Array, lengths: Sequence[int], list_type: pa.ListType) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(_offsets(lengths, np.int32)), values, type=list_type)


def _views(array: pa.Array) -> list[memoryview]:
    """A view of each value of a binary array, which may be a slice."""
    _, offsets_buffer, values = array.buffers()
    if not len(array):
        return []
    offsets = np.frombuffer(offsets_buffer, np.int64)[array.offset : array.offset + len(array) + 1].tolist()
    whole = memoryview(values)
    return [whole[start:end] for start, end in pairwise(offsets)]


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


def unpack_prompts(packed: bytes | None) -> list[PromptRow]:
    """What pack_prompts packed."""
    if packed is None:
        return []
    rows: list[PromptRow] = pa.ipc.open_stream(packed).read_all().to_pylist()
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
    row = {
        **asdict(shard.file),
        "image_ids": shard.image_ids.tobytes(),
        "num_by_status": list(shard.num_by_status.items()),
        "num_masks": shard.num_masks,
    }
    return pa.Table.from_pylist([row], schema=SHARDS)


def shards_of(rows: pa.Table) -> list[Shard]:
    """Unpack what shard_row packed."""
    shards = []
    for row in rows.to_pylist():
        image_ids = np.frombuffer(row.pop("image_ids"), np.int64)
        num_by_status, num_masks = Counter(dict(row.pop("num_by_status"))), row.pop("num_masks")
        shards.append(Shard(DataFile(**row), image_ids, num_by_status, num_masks))
    return shards
