"""What `show` does: one image of a run with its masks drawn over it, found by its id or by the end of its URI."""

from __future__ import annotations

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from sam_pipeline.drawing import draw_masks
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.results.categories import read_names_to_show
from sam_pipeline.results.images import read_images
from sam_pipeline.results.results import Results
from sam_pipeline.safety.clean_text import one_line

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Formats of pictures, by the ending of the name."""

_MOST_LISTED = 5


def picture_format(name: str) -> str:
    """The format of a picture, as Pillow calls it.

    Raises:
        ConfigError: the name has another ending than FORMATS.
    """
    ending = os.path.splitext(name)[1].lower()
    if ending not in FORMATS:
        raise ConfigError(f"a picture is called {', '.join(FORMATS)}; got {name!r}")
    return FORMATS[ending]


def find_image(results: Results, name: str) -> int:
    """The id of an image that has a row.

    Args:
        results: of the run, as a selection shows them.
        name: an image_id, or the end of a URI. Of several URIs that end so, one in which a slash or # is before the end
            is meant; and of those the whole URI.

    Raises:
        InputError: there is none, or more than one.
    """
    if name.isascii() and name.isdigit():
        image_id = min(int(name), 2**63 - 1)
        for rows in results.tables(["image_id"], first_id=image_id, last_id=image_id):
            if rows.num_rows:
                return image_id
    found = pa.concat_tables(
        [
            results.schema.empty_table().select(["image_id", "uri"]),
            *(_ending(rows, name) for rows in results.tables(["image_id", "uri"])),
        ]
    )
    for ending in (None, f"/{name}", f"#{name}"):
        uris = found["uri"]
        exact = found.filter(pc.equal(uris, name) if ending is None else pc.ends_with(uris, ending))
        if exact.num_rows:
            found = exact
            break
    if found.num_rows == 1:
        return int(found["image_id"][0].as_py())
    if found.num_rows:
        some = ", ".join(f"{row['image_id']} ({row['uri']})" for row in found.slice(0, _MOST_LISTED).to_pylist())
        more = f" and {found.num_rows - _MOST_LISTED} more" if found.num_rows > _MOST_LISTED else ""
        raise InputError(f"{found.num_rows} images end with {name!r}: {some}{more}; give an id, or more of the URI")
    left = results.num_images - results.num_done
    still = f"; {left} of {results.num_images} images have no row yet" if left else ""
    raise InputError(f"no image of {results.output} has the id {name}, or a URI that ends so{still}")


def draw_image(results: Results, image_id: int, categories: str | None = None) -> tuple[NDArray[np.uint8], str]:
    """An image with its masks and the boxes of its prompts.

    Args:
        results: of the run; its selection decides which masks are drawn.
        image_id: of an image that has a row.
        categories: where names of categories are, as for read_names_to_show.

    Returns:
        (H, W, 3) uint8 RGB, and what is wrong with the image, which is grey then; empty where nothing is.

    Raises:
        InputError: the image was not annotated; or categories or the storage of the images cannot be read.
        OutputError, StorageUnavailableError: the run cannot be read.
    """
    columns = ["uri", "status", "error", "height", "width", "masks"]
    (rows,) = results.tables(columns, first_id=image_id, last_id=image_id)
    (row,) = rows.to_pylist()
    if row["status"] != "ok":
        raise InputError(f"image {image_id} ({row['uri']}) has no masks: {row['status']}: {row['error']}")
    ((_, image),) = read_images(results, [image_id])
    missing = ""
    size_hw = row["height"], row["width"]
    if isinstance(image, Exception):
        missing = one_line(image)
    elif image.shape[:2] != size_hw:
        missing = f"it has {image.shape[1]} x {image.shape[0]} pixels now"
    if isinstance(image, Exception) or missing:
        image = np.full((*size_hw, 3), 128, np.uint8)
    names = read_names_to_show(results, categories).names
    return draw_masks(image, row["masks"], categories=names, prompt_boxes=True), missing


def encoded(picture: NDArray[np.uint8], format_name: str) -> bytes:
    """A picture as the bytes of a file; format_name is Pillow's.

    Raises:
        ConfigError: the format has a limit that the picture exceeds.
    """
    written = io.BytesIO()
    try:
        Image.fromarray(picture).save(written, format_name, quality=90)
    except (OSError, ValueError) as error:  # WebP and JPEG know no sides beyond 16383 and 65535 pixels
        raise ConfigError(
            f"cannot write {picture.shape[1]} x {picture.shape[0]} pixels as {format_name}: {error}; write a .png"
        ) from error
    return written.getvalue()


def _ending(rows: pa.Table, name: str) -> pa.Table:
    return rows.filter(pc.ends_with(rows["uri"], name))
