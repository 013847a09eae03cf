"""Runs of images that are there to be fetched: files, members of archives, rows of Parquet files."""

import io
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sam_pipeline.config import InputConfig, PlanConfig
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.tables.plan import read_plan, read_planned
from tests.exports.masks import HEIGHT, WIDTH, all_shapes, row
from tests.storage.image_files import saved
from tests.storage.runs import FINGERPRINT, shard, take_over


def pixels(number):
    """A smooth picture, so that a JPEG of it is nearly the same: (H, W, 3) uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y, np.full_like(x, 20 * number % 256)], axis=-1).astype(np.uint8)


def picture(number, kind="JPEG"):
    return saved(pixels(number), kind, quality=95)


def turned(number):
    """The picture stored on its side, with the EXIF that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(np.rot90(pixels(number)), "JPEG", quality=95, exif=exif)


def in_folder(place, files):
    for name, data in files.items():
        (place / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "in" / name).write_bytes(data)
    return place / "in"


def in_list(place, files, names=None):
    """Files whose sizes no plan knows; the list may call them by other names."""
    in_folder(place, files)
    (place / "in" / "list.txt").write_text("\n".join(names or files))
    return place / "in" / "list.txt"


def in_tar(place, files):
    with tarfile.open(place / "images.tar", "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return place / "images.tar"


def in_zip(place, files):
    with zipfile.ZipFile(place / "images.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return place / "images.zip"


def in_parquet(place, files):
    pq.write_table(pa.table({"image": list(files.values())}), place / "images.parquet")
    return place / "images.parquet"


def run_of(place, files, store=in_folder, masks=None, output=None):
    """A finished run of images.

    Args:
        place: a folder for the input and the output.
        files: content by name.
        store: how they are stored.
        masks: of each image, in the order of their names; default: every kind of mask.
        output: of the run, if it is elsewhere.
    """
    output = output or str(place / "run")
    source = store(place, files) if callable(store) else store
    ensure_plan(PlanConfig(images=InputConfig(input=str(source)), output=output))
    table = take_over(output, FINGERPRINT | {"max_pixels": 10_000_000})
    num_images = read_plan(output, {}).num_images
    planned = read_planned(output, np.arange(num_images), {}).to_pylist()
    masks = [all_shapes()] * num_images if masks is None else masks
    rows = [
        row(each["image_id"], found, uri=each["uri"], extra=each["extra"])
        for each, found in zip(planned, masks, strict=True)
    ]
    table.commit([shard(output, rows)])
    return output
