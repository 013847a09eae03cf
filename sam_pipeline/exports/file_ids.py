"""Ids that images have in the COCO file that they came from."""

from __future__ import annotations

import pyarrow.compute as pc

from sam_pipeline.errors import ConfigError
from sam_pipeline.results.results import Results
from sam_pipeline.storage.inputs.lists.coco import coco_image_id


def have_file_ids(results: Results) -> bool:
    """Whether the images that a selection shows came from a COCO file.

    Raises:
        ConfigError: only some of them did, so that one of the others could have the id of one of these.
    """
    num_images = num_given = 0
    for rows in results.tables(["extra"], pc.field("status") == "ok"):
        num_images += rows.num_rows
        num_given += sum(coco_image_id(extra) is not None for extra in rows["extra"].to_pylist())
    if 0 < num_given < num_images:
        raise ConfigError(
            f"{num_given} of {num_images} images have an id of a COCO file (coco_image_id), and the others have none; "
            "export the two kinds separately, with --include and --exclude"
        )
    return num_given > 0
