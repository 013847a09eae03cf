"""Runs over real pictures in every place that they can be planned from, with results written directly."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.tables.plan import read_planned
from tests.configs import plan_config
from tests.end_to_end.pictures import HEIGHT, WIDTH, photo
from tests.storage.runs import FINGERPRINT, shard, take_over
from tests.stored_masks import NO_PROMPT


def picture(number, *, turned=False):
    """The bytes of a photograph; turned by a quarter in the file, with an EXIF tag that turns it back."""
    image, data = Image.fromarray(photo(number)), io.BytesIO()
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(data, "PNG", exif=exif.tobytes())
    else:
        image.save(data, "PNG")
    return data.getvalue()


def files(folder, num_images, **options):
    folder.mkdir()
    for number in range(num_images):
        (folder / f"{number:04}.png").write_bytes(picture(number, **options))
    return folder


def tar(folder, num_images, suffix=".tar", **options):
    path = folder.with_suffix(suffix)
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as archive:
        for number in range(num_images):
            data = picture(number, **options)
            member = tarfile.TarInfo(f"{number:04}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def compressed_tar(folder, num_images, **options):
    return tar(folder, num_images, ".tar.gz", **options)


def zipped(folder, num_images, **options):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(num_images):
            archive.writestr(f"{number:04}.png", picture(number, **options), zipfile.ZIP_DEFLATED)
    return path


def parquet(folder, num_images, **options):
    path = folder.with_suffix(".parquet")
    pictures = [{"bytes": picture(number, **options), "path": f"{number}.png"} for number in range(num_images)]
    pq.write_table(pa.table({"image": pictures}), path, row_group_size=2)
    return path


PLACES = (files, tar, compressed_tar, zipped, parquet)


def blob(seed, **fields):
    """A rectangle with a hole in an image of HEIGHT × WIDTH, as the generator describes it, and its pixels."""
    generator = np.random.default_rng(seed)
    x, y, w, h = (int(generator.integers(low, high)) for low, high in ((0, 90), (0, 60), (1, 38), (1, 36)))
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[y : y + h, x : x + w] = True
    pixels[y + h // 3 : y + h // 2, x + w // 3 : x + w // 2] = False
    mask = {
        "segmentation": rle.encode(Runs.of_mask(pixels)),
        "bbox": [x, y, w - 1, h - 1],
        "area": int(pixels.sum()),
        "predicted_iou": float(generator.uniform(0.8, 1)),
        "stability_score": 0.97,
        "point_coords": [[x + 0.5, y + 0.5]],
        "crop_box": [0, 0, WIDTH, HEIGHT],
        **NO_PROMPT,
    }
    return mask | fields, pixels


def image_row(image_id, uri, masks, **changes):
    """The result of an image."""
    row = {"image_id": image_id, "uri": uri, "height": HEIGHT, "width": WIDTH, "status": "ok", "error": None}
    return row | {"num_masks": len(masks), "masks": masks, "extra": None, "prompt_errors": None} | changes


def num_masks_of(image_id):
    """How many masks picture_run gives an image: 0 to 4."""
    return image_id * 7 % 5


def picture_run(output, place, *, per_shard=None, options=None, make_masks=None, **changes):
    """Plan what is in a place, and commit a row for each image: per_shard a file, all by default; changes replace
    fields."""
    options = options or {}
    plan = ensure_plan(plan_config(input=str(place), output=str(output), storage_options=options))
    planned = read_planned(plan.output, np.arange(plan.num_images), options).to_pylist()
    make_masks = make_masks or (lambda image_id: [blob(10 * image_id + k)[0] for k in range(num_masks_of(image_id))])
    rows = [image_row(row["image_id"], row["uri"], make_masks(row["image_id"]), **changes) for row in planned]
    table = take_over(plan.output, FINGERPRINT, options)
    per_shard = per_shard or len(rows)
    for first in range(0, len(rows), per_shard):
        table.commit([shard(plan.output, rows[first : first + per_shard], options)])
    return plan.output
