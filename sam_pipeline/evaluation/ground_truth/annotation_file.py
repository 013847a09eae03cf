"""Ground truth as COCO's annotation files hold it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import is_encodable
from sam_pipeline.storage.inputs.file_numbers import as_number, file_id, whole_number
from sam_pipeline.storage.inputs.lists.coco import first_image_ids
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.object_reading import read_json

_ONLY = 1
"""The category of annotations without one in a file that lists no categories."""


@dataclass(frozen=True)
class TruthImage:
    """An image of the file."""

    image_id: int | str
    file_name: str | None
    """None where there is none that a file can have."""
    size_hw: tuple[int, int] | None
    """Height and width in pixels, where the file says them."""


@dataclass(frozen=True)
class GroundTruth:
    """What an annotation file says; annotations stay as they are in the file until their image is compared.

    Only where the file lists no categories, annotations without one have the category 1.
    """

    uri: str
    images: list[TruthImage]
    """In the order of their ids: masks with equal scores count in this order, as in pycocotools."""
    annotations: Mapping[int | str, list[dict[str, Any]]]
    """By image_id, in the order of the file."""
    categories: Mapping[int, str]
    """Name by id; where the file lists none, those of its annotations with their numbers as names."""
    num_stray: int
    """Annotations without a known image."""
    num_uncategorized: int
    """Annotations of known images without a known category: objects where categories are not compared."""
    is_input: bool = False
    """Whether the run was planned from this file: ids say which image is which, and several that name one image count
    as the first of them, which the run has."""


def read_ground_truth(uri: str, storage_options: StorageOptions, *, is_input: bool = False) -> GroundTruth:
    """Read an annotation file, which is held in memory.

    Args:
        uri: of the file.
        storage_options: of fsspec.
        is_input: see GroundTruth.

    Raises:
        InputError: it cannot be read, is no such file, has no annotations, or gives an id to two images.
        StorageUnavailableError: the storage did not answer.
    """
    content = read_json(uri, storage_options)
    if isinstance(content, list):
        raise InputError(f"{uri} holds a list, as COCO's results do; ground truth is an object with annotations")
    for name in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise InputError(f"{uri} is not a COCO annotation file: it has no list `{name}`")
    if not content["annotations"]:
        raise InputError(f"no annotations in {uri}: there is nothing to compare with")
    images = _images(uri, content["images"])
    names, entries = _listed_categories(content), content["annotations"]
    if not names:
        entries = [{"category_id": _ONLY, **entry} if isinstance(entry, dict) else entry for entry in entries]
        numbers = [category_of(entry) for entry in entries if isinstance(entry, dict)]
        names = {number: str(number) for number in numbers}
    categories = {number: name for number, name in names.items() if number is not None}
    annotations: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
    first_ids = first_image_ids(content["images"]) if is_input else {image.image_id: image.image_id for image in images}
    num_stray = num_uncategorized = 0
    for entry in entries:
        image_id = file_id(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None or image_id not in first_ids:
            num_stray += 1
        else:
            annotations[first_ids[image_id]].append(entry)
            num_uncategorized += category_of(entry) not in categories
    if not annotations:
        raise InputError(f"no annotation in {uri} names an image of the file")
    images = [image for image in images if first_ids[image.image_id] == image.image_id]
    return GroundTruth(uri, images, annotations, categories, num_stray, num_uncategorized, is_input)


def category_of(annotation: Mapping[str, Any]) -> int | None:
    """The category of an annotation, which the file may not list; None if the annotation has none."""
    return whole_number(as_number(annotation.get("category_id")))


def _images(uri: str, entries: list[Any]) -> list[TruthImage]:
    images: dict[int | str, TruthImage] = {}
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        image_id = file_id(fields.get("id"))
        if image_id is None:
            raise InputError(f"{uri} is not a COCO annotation file: an image has no id that is a number or text")
        if image_id in images:
            raise InputError(f"two images of {uri} have the id {image_id!r}")
        height, width = (whole_number(as_number(fields.get(name))) for name in ("height", "width"))
        size_hw = height or 0, width or 0
        name = fields.get("file_name") or fields.get("coco_url")
        images[image_id] = TruthImage(
            image_id,
            name if isinstance(name, str) and is_encodable(name) else None,
            size_hw if min(size_hw) > 0 else None,
        )
    return sorted(images.values(), key=lambda image: (isinstance(image.image_id, str), image.image_id))


def _listed_categories(content: Mapping[str, Any]) -> dict[int | None, str]:
    """Names by id; None is the id of one without a number."""
    listed = content.get("categories")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {whole_number(as_number(entry.get("id"))): str(entry.get("name", "")) for entry in entries}
