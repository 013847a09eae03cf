"""A finished run of any size with masks like those of photographs, written in minutes: no image is annotated.

Its masks are blobs, some hundred bytes of RLE each, drawn from a few thousand distinct ones that are too many for
compression to notice that they repeat. Boxes and areas are right, so that verify is satisfied. Its images do not exist,
unless a picture is given, of which each is then a link. The same arguments give the same rows.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.config.fingerprint import fingerprint
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA
from sam_pipeline.storage.objects.filesystem import absolute_uri
from sam_pipeline.storage.tables.plan import write_plan
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from sam_pipeline.storage.tables.schema import MASK_TYPE, MASKS_SCHEMA, SCHEMA_VERSION

HEIGHT, WIDTH = 600, 800
IMAGES_PER_FOLDER = 1000

_DISTINCT = 16_384
_IMAGES_AT_ONCE = 2048


def write_run(
    output: str,
    num_images: int,
    *,
    masks_per_image: int = 60,
    images: str = "/photos",
    picture: Path | None = None,
    seed: int = 0,
) -> None:
    """Plan images and commit results for all of them; the run is of the grid, and its masks have no category.

    Args:
        output: folder of the run; nothing may be there yet.
        num_images: 1000 of them share a folder, by which include can choose some.
        masks_per_image: of each image, but for one in a hundred, which has none.
        images: the folder in which the images would be.
        picture: WIDTH × HEIGHT pixels; each image becomes a symbolic link to it.
        seed: of the masks and their scores.
    """
    output = absolute_uri(output)
    uris = [_uri(images, number) for number in range(num_images)]
    if picture is not None:
        for uri in uris:
            place = Path(uri.removeprefix("file://"))
            place.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(picture.resolve(), place)
    planned = {"uri": uris, "size_bytes": [100_000] * num_images}
    columns = {field.name: planned.get(field.name, [None] * num_images) for field in SOURCE_SCHEMA}
    write_plan(output, images, pa.table(columns, schema=SOURCE_SCHEMA), {})
    table = MaskTable.take_over(output, _fingerprint(), {"config": "{}"}, {})
    blobs = distinct_masks(seed, min(_DISTINCT, num_images * masks_per_image))
    random = np.random.default_rng(seed)
    for first in range(0, num_images, _IMAGES_AT_ONCE):
        numbers = np.arange(first, min(first + _IMAGES_AT_ONCE, num_images))
        rows = _rows(numbers, uris[first : first + _IMAGES_AT_ONCE], blobs, masks_per_image, random)
        table.commit([put_shard(output, rows, {}, table_id=table.id)])


def distinct_masks(seed: int, count: int) -> pa.StructArray:
    """Masks of blobs of all sizes, (count,) of MASK_TYPE."""
    random = np.random.default_rng(seed)
    return pa.array([_blob(random) for _ in range(count)], MASK_TYPE)


def _blob(random: np.random.Generator) -> dict[str, Any]:
    """A circle with a wobbling radius and rough edges, most often small, as objects in photographs are."""
    angles = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    radius = np.exp(random.uniform(np.log(8), np.log(250)))
    waves = sum(random.normal(0, 0.3 / k) * np.cos(k * angles + random.uniform(0, 6)) for k in range(2, 9))
    radii = radius * np.clip(1 + waves, 0.3, 2) + random.normal(0, 1, len(angles))
    center_x, center_y = random.uniform(0.1, 0.9) * WIDTH, random.uniform(0.1, 0.9) * HEIGHT
    x = np.clip(center_x + radii * np.cos(angles), 0, WIDTH)
    y = np.clip(center_y + radii * np.sin(angles) * random.uniform(0.4, 1), 0, HEIGHT)
    (rle,) = coco_mask.frPyObjects([np.stack([x, y], axis=1).ravel().tolist()], HEIGHT, WIDTH)
    left, top, width, height = (int(value) for value in coco_mask.toBbox(rle))
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "bbox": [left, top, width - 1, height - 1],
        "area": int(coco_mask.area(rle)),
        "predicted_iou": 0.0,
        "stability_score": 0.0,
        "point_coords": [[float(round(center_x)), float(round(center_y))]],
        "crop_box": [0, 0, WIDTH, HEIGHT],
    }


def _rows(
    numbers: np.ndarray, uris: list[str], blobs: pa.StructArray, masks_per_image: int, random: np.random.Generator
) -> pa.Table:
    counts = np.where(numbers % 100 == 99, 0, masks_per_image)
    num_masks = int(counts.sum())
    some = blobs.take(pa.array(random.integers(0, len(blobs), num_masks)))
    # Scores as the default thresholds leave them.
    scores = {"predicted_iou": random.uniform(0.88, 1.02, num_masks), "stability_score": random.beta(8, 1, num_masks)}
    scores["stability_score"] = 0.95 + 0.05 * scores["stability_score"]
    fields = [
        pa.array(scores[field.name], field.type) if field.name in scores else some.field(field.name)
        for field in MASK_TYPE
    ]
    masks = pa.StructArray.from_arrays(fields, fields=list(MASK_TYPE))
    num_images = len(numbers)
    columns = {
        "image_id": pa.array(numbers),
        "uri": uris,
        "height": [HEIGHT] * num_images,
        "width": [WIDTH] * num_images,
        "status": ["ok"] * num_images,
        "num_masks": pa.array(counts),
        "masks": pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), masks),
    }
    return pa.table(
        [pa.array(columns.get(name, [None] * num_images), type=None) for name in MASKS_SCHEMA.names],
        names=MASKS_SCHEMA.names,
    ).cast(MASKS_SCHEMA)


def _uri(images: str, number: int) -> str:
    return absolute_uri(f"{images}/{number // IMAGES_PER_FOLDER:05}/{number:08}.jpg")


def _fingerprint() -> dict[str, Any]:
    return fingerprint(
        AnnotateConfig(output="-"),
        mode="grid",
        prompts_sha256=None,
        point_grid_sha256=None,
        precision="fp32",
        weights_sha256="0" * 64,
        schema_version=SCHEMA_VERSION,
    )


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--masks-per-image", type=int, default=60)
    arguments = parser.parse_args()
    write_run(arguments.output, arguments.images, masks_per_image=arguments.masks_per_image)


if __name__ == "__main__":
    main()
