"""Which columns of a file hold prompts or regions, and which names the image."""

from __future__ import annotations

from collections.abc import Mapping

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.lists.manifest import URI_COLUMNS, shown_names

IMAGE_ID = "image_id"
"""The column that names images by an id, as COCO's do."""

KEY_COLUMNS = (*URI_COLUMNS, IMAGE_ID)
"""Where images are looked for, in this order: a file that has both knows its images better by name than by number."""

PROMPT_COLUMNS = ("bbox", "point_coords", "mask_input")
"""What describes an object, of which there must be one."""

REGION_COLUMNS = ("polygon", "bbox")
"""What describes a region, of which there must be one."""

OTHER_COLUMNS = ("point_labels", "category_id", "score")
"""What else of a prompt is read."""


def key_column(uri: str, columns: Mapping[str, bool], *, are_regions: bool) -> str:
    """Choose the column that names the image.

    Args:
        uri: of the file, for messages.
        columns: by name, whether they may hold text or whole numbers.
        are_regions: whether regions are wanted, not prompts.

    Raises:
        InputError: there is none, or none that describes an object or region.
    """
    key = next((name for name in KEY_COLUMNS if columns.get(name)), None)
    if key is None:
        raise InputError(
            f"no column of {uri} names the image, by text or whole numbers in one of {', '.join(KEY_COLUMNS)}; its "
            f"columns: {shown_names(columns)}"
        )
    needed = REGION_COLUMNS if are_regions else PROMPT_COLUMNS
    if not any(name in columns for name in needed):
        raise InputError(f"{uri} has none of the columns {', '.join(needed)}; its columns: {shown_names(columns)}")
    return key
