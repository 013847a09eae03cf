"""What every file of prompts is read into: tables with a row a prompt; and which columns of such a file are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sam_pipeline.config import PromptConfig
from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.lists.manifest import URI_COLUMNS, shown_names
from sam_pipeline.storage.objects.filesystem import StorageOptions

MASK_INPUT_SIZE = 256
"""Height and width of a mask prompt: low-resolution logits, as the predictor returns them."""

PROMPT_FIELDS = [
    pa.field("prompt_id", pa.int64(), nullable=False),
    pa.field("box_xyxy", pa.list_(pa.float64())),
    pa.field("point_coords", pa.list_(pa.list_(pa.float64()))),
    pa.field("point_labels", pa.list_(pa.int32())),
    pa.field("mask_input", pa.large_binary()),
    pa.field("polygon", pa.list_(pa.list_(pa.float64()))),
    pa.field("is_relative", pa.bool_(), nullable=False),
    pa.field("category_id", pa.int64()),
    pa.field("score", pa.float64()),
    pa.field("error", pa.string()),
]
"""One prompt, or one region of interest.

prompt_id: the annotation's own id where it has one, else its number in the file (in YOLO's layout: the line), from 0.
box_xyxy: [x0, y0, x1, y1], as given, neither clipped nor checked against the image.
point_coords, point_labels: [[x, y], …] with 1 on the object, 0 off it.
mask_input: (256, 256) float32 logits, little-endian, row by row.
polygon: [[x, y], …], of a region only.
is_relative: whether box and points are shares of the image's width and height; else they are pixels of the image.
category_id, score: of the detector, to be carried to the result.
error: why the prompt cannot be used; then all that describes an object is null.
"""

KEYED_PROMPTS = pa.schema(
    [pa.field("key", pa.string()), pa.field("is_image_id", pa.bool_(), nullable=False), *PROMPT_FIELDS]
)
"""Prompts as a file has them. key: which image, in the file's own words (a URI, a name, a number); null where the file
names none. is_image_id: whether the file calls it an id of the image, as COCO does."""

Row = dict[str, Any]
"""Columns of KEYED_PROMPTS; what is not in it is null."""

MakeRow = Callable[[object, int, Mapping[str, Any]], Row]
"""(key, prompt_id, fields) → a row: prompt_values.prompt_row or region_row."""

TABLE_ROWS = 65_536
"""The most rows of a table."""
MASKS_AT_ONCE = 256
"""The most mask prompts of a table: each is 256 KiB."""

IMAGE_ID = "image_id"
"""The column that names images by an id, as COCO's do."""

KEY_COLUMNS = (*URI_COLUMNS, IMAGE_ID)
"""Where images are looked for, in this order: in each row the first that holds text or a whole number counts. A file
that has both knows its images better by name than by number."""

PROMPT_COLUMNS = ("bbox", "point_coords", "mask_input")
"""What describes an object, of which there must be one."""

REGION_COLUMNS = ("polygon", "bbox")
"""What describes a region, of which there must be one."""

OTHER_COLUMNS = ("point_labels", "category_id", "score")
"""What else of a prompt is read."""


@dataclass(frozen=True)
class PromptOptions:
    """How a file of prompts is to be read."""

    storage: StorageOptions
    """Fsspec options of remote filesystems."""
    prompting: PromptConfig = field(default_factory=PromptConfig)
    """How its boxes are to be read, and which of its prompts are left out."""
    planned_from: str | None = None
    """What the images were planned from. Where that is the file of prompts itself, its images go by their ids."""


def key_columns(uri: str, columns: Mapping[str, bool], *, are_regions: bool) -> list[str]:
    """The columns that may name the image, in the order in which a row is looked through.

    Args:
        uri: of the file, for messages.
        columns: by name, whether they may hold text or whole numbers.
        are_regions: whether regions are wanted, not prompts.

    Raises:
        InputError: there is none, or none that describes an object or region.
    """
    keys = [name for name in KEY_COLUMNS if columns.get(name)]
    if not keys:
        raise InputError(
            f"no column of {uri} names the image, by text or whole numbers in one of {', '.join(KEY_COLUMNS)}; its "
            f"columns: {shown_names(columns)}"
        )
    needed = REGION_COLUMNS if are_regions else PROMPT_COLUMNS
    if not any(name in columns for name in needed):
        raise InputError(f"{uri} has none of the columns {', '.join(needed)}; its columns: {shown_names(columns)}")
    return keys


def row_tables(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Tables of KEYED_PROMPTS with up to TABLE_ROWS rows, MASKS_AT_ONCE of them with a mask."""
    some: list[Row] = []
    num_masks = 0
    for row in rows:
        some.append(row)
        num_masks += row.get("mask_input") is not None
        if len(some) == TABLE_ROWS or num_masks == MASKS_AT_ONCE:
            yield pa.Table.from_pylist(some, schema=KEYED_PROMPTS)
            some, num_masks = [], 0
    if some:
        yield pa.Table.from_pylist(some, schema=KEYED_PROMPTS)
