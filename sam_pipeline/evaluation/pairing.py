"""Images that both the run and the ground truth have, and what is compared of each."""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import InputError
from sam_pipeline.evaluation.ground_truth.annotation_file import GroundTruth, TruthImage, category_of
from sam_pipeline.evaluation.ground_truth.category_matching import ComparedCategories
from sam_pipeline.evaluation.ground_truth.image_matching import match_ids, match_images
from sam_pipeline.evaluation.ground_truth.truth_masks import MOST_COORDINATE, TruthError, TruthMask, truth_mask
from sam_pipeline.evaluation.image_pair import ImagePair, RankedMask
from sam_pipeline.evaluation.ranking import ranks
from sam_pipeline.evaluation.settings import RankBy
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.choosing import list_array
from sam_pipeline.storage.inputs.file_numbers import is_real, whole_number

logger = logging.getLogger(__name__)

# A mask takes a few kilobytes as Python objects while it is compared.
_ROWS_AT_ONCE = 32
_SHOWN = 3


@dataclass(frozen=True)
class ComparedImage:
    """An image of both."""

    number: int
    """Where it stands in the order of the ground truth, from 1."""
    truth: TruthImage
    image_id: int
    """The run's."""
    uri: str
    status: str
    size_hw: tuple[int, int]


@dataclass
class Counts:
    """What is compared, and what is not."""

    images: Counter[str] = field(default_factory=Counter)
    """Compared, by status; all but ok count as images without masks."""
    num_only_in_truth: int = 0
    """Images of the ground truth that the run does not have, or has not come to."""
    num_only_in_run: int = 0
    num_other_size: int = 0
    """Images that are left out because both sides disagree about their size."""
    num_objects: int = 0
    """Annotations that are compared, crowds apart."""
    num_crowds: int = 0
    num_boxes_only: int = 0
    """Annotations without a mask, which count for boxes alone."""
    num_unusable: int = 0
    """Annotations that are not what COCO's format says."""
    num_masks: int = 0
    num_other_category: int = 0
    """Masks that are left out because they have no category, or one that the ground truth does not have."""


def compared_images(results: Results, truth: GroundTruth, counts: Counts) -> list[ComparedImage]:
    """The images that both have, by image_id. Of the results, no mask is read.

    Raises:
        InputError: they have none in common, or all differ in size; a name is ambiguous.
    """
    columns = ["image_id", "uri", "status", "height", "width", "extra"]
    rows = pa.concat_tables([results.schema.empty_table().select(columns), *results.tables(columns)])
    if not rows.num_rows:
        raise InputError("the run has no results of the images that are wanted")
    uris, extras = rows["uri"].to_pylist(), rows["extra"].to_pylist()
    found = match_ids(truth.images, extras) if truth.is_input else match_images(truth.images, uris, extras)
    if not found:
        raise InputError(
            f"run and ground truth have no image in common: the run has {uris[0]!r}, the ground truth "
            f"{truth.images[0].file_name or truth.images[0].image_id!r}"
        )
    images: list[ComparedImage] = []
    others: list[str] = []
    for position, number in found.items():
        row = {name: rows[name][number].as_py() for name in ("image_id", "status", "height", "width")}
        image, ours = truth.images[position], (row["height"], row["width"])
        is_read = None not in ours
        if is_read and image.size_hw is not None and image.size_hw != ours:
            others.append(_difference(uris[number], ours, image.size_hw))
            continue
        size_hw = ours if is_read else image.size_hw or _size_of(truth.annotations.get(image.image_id, []))
        images.append(ComparedImage(position + 1, image, row["image_id"], uris[number], row["status"], size_hw))
    counts.num_only_in_truth = len(truth.images) - len(found)
    counts.num_only_in_run = rows.num_rows - len(found)
    counts.num_other_size = len(others)
    counts.images.update(image.status for image in images)
    if others:
        what = f"{len(others)} images have another size in the ground truth, such as {'; '.join(others[:_SHOWN])}"
        if not images:
            raise InputError(f"{what}; none is left to compare")
        logger.warning("%s; they are left out", what)
    return sorted(images, key=lambda image: image.image_id)


def iterate_pairs(
    results: Results,
    truth: GroundTruth,
    images: list[ComparedImage],
    categories: ComparedCategories,
    rank_by: RankBy,
    counts: Counts,
) -> Iterator[list[ImagePair]]:
    """Batches of images with their masks and objects, in the order of the results.

    Raises:
        ConfigError: masks have no score to be ranked by.
    """
    by_id = {image.image_id: image for image in images}
    problems: list[str] = []
    where = pc.field("image_id").isin(pa.array(list(by_id), pa.int64()))
    for rows in results.tables(["image_id", "masks"], where):
        for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
            some = rows.slice(start, _ROWS_AT_ONCE)
            yield [
                ImagePair(image.number, image.size_hw, _objects(truth, image, categories, counts, problems), masks)
                for image, masks in zip(
                    map(by_id.__getitem__, some["image_id"].to_pylist()),
                    _masks(some, categories, rank_by, counts),
                    strict=True,
                )
            ]
    if problems:
        logger.warning("%d annotations are left out, such as %s", counts.num_unusable, "; ".join(problems))
    if counts.num_boxes_only:
        logger.warning("%d annotations have no mask: they count for boxes alone", counts.num_boxes_only)


def _masks(
    rows: pa.Table, categories: ComparedCategories, rank_by: RankBy, counts: Counts
) -> Iterator[list[RankedMask]]:
    """The masks of each row that are compared."""
    lists = list_array(rows["masks"])
    values = lists.flatten()
    segmentations, areas = values.field("segmentation").to_pylist(), values.field("area").to_pylist()
    boxes, category_ids = values.field("bbox").to_pylist(), values.field("category_id").to_pylist()
    scores = ranks(values, rank_by).tolist()
    ends = lists.offsets.to_pylist()
    for first, last in itertools.pairwise(ends):
        masks: list[RankedMask] = []
        for place in range(first, last):
            category = categories.of_mask(category_ids[place])
            if category is None:
                counts.num_other_category += 1
                continue
            x, y, w, h = boxes[place]
            size = 1 if areas[place] else 0  # stored is the distance of the last pixel from the first
            masks.append(
                {
                    "category_id": category,
                    "score": scores[place],
                    "area": areas[place],
                    "bbox": [float(x), float(y), float(w + size), float(h + size)],
                    "segmentation": segmentations[place],
                }
            )
        counts.num_masks += len(masks)
        yield masks


def _objects(
    truth: GroundTruth, image: ComparedImage, categories: ComparedCategories, counts: Counts, problems: list[str]
) -> list[TruthMask]:
    objects: list[TruthMask] = []
    for annotation in truth.annotations.get(image.truth.image_id, []):
        category = categories.of_object(category_of(annotation))
        if category is None:
            continue
        try:
            each = truth_mask(annotation, category, image.size_hw)
        except TruthError as error:
            counts.num_unusable += 1
            if len(problems) < _SHOWN:
                problems.append(f"{annotation.get('id')!r} of {image.truth.file_name!r}: {error}")
            continue
        counts.num_crowds += each["iscrowd"]
        counts.num_objects += 1 - each["iscrowd"]
        counts.num_boxes_only += each["segmentation"] is None
        objects.append(each)
    return objects


def _difference(uri: str, ours: tuple[int, int], theirs: tuple[int, int]) -> str:
    is_turned = ours == theirs[::-1]
    return (
        f"{uri!r}: {ours[1]}x{ours[0]} in the run, {theirs[1]}x{theirs[0]} in the ground truth"
        + " (which seems to be of the image before its EXIF orientation)" * is_turned
    )


def _size_of(annotations: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """A size that holds the annotations of an image that has none: it could not be read, and has no masks."""
    height, width = 1, 1
    for segmentation in (annotation.get("segmentation") for annotation in annotations):
        if isinstance(segmentation, dict):
            size = segmentation.get("size")
            sides = [whole_number(side) or 0 for side in size] if isinstance(size, list) else []
            if len(sides) == 2 and min(sides) > 0:
                return sides[0], sides[1]
        for polygon in segmentation if isinstance(segmentation, list) else []:
            numbers = [value for value in polygon if is_real(value)] if isinstance(polygon, list) else []
            inside = [min(math.ceil(value), MOST_COORDINATE) for value in numbers if math.isfinite(value)]
            width, height = max(width, *inside[::2], 1), max(height, *inside[1::2], 1)
    return height, width
