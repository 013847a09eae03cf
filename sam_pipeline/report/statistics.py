"""The figures of a run: counts, errors, distributions, and what stricter thresholds would keep. Needs no pixels."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.report.counting.distributions import (
    Distribution,
    area_counter,
    number_counter,
    score_counter,
    share_counter,
)
from sam_pipeline.report.counting.error_groups import ErrorCounter, ErrorGroup
from sam_pipeline.report.counting.mask_numbers import MaskNumbers, read_mask_numbers
from sam_pipeline.report.counting.threshold_curves import ThresholdCounter, ThresholdCurve
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.results import Results


@dataclass(frozen=True)
class CategoryCount:
    """How often a category was found."""

    category_id: int
    """As stored."""
    name: str
    num_masks: int
    num_images: int
    """Images with one mask of it at least."""


@dataclass(frozen=True)
class RunStatistics:
    """The figures of a run's results, as a selection shows them."""

    output: str
    """Folder of the run: an absolute path or a URI."""
    selection: Mapping[str, Any]
    """Settings of the selection that are not their default, by name."""
    filters: tuple[Mapping[str, Any], ...]
    """What a filtered run was made from, oldest first: source, version and selection of each; empty for a run that
    `annotate` made."""
    num_planned: int
    """Planned images."""
    num_done: int
    """Images that have a row, whatever its status and the selection."""
    num_images: int
    """Images that have a row and are chosen by the selection; all that follows is of these."""
    num_by_status: Mapping[str, int]
    """Images by status; of all statuses only ok has masks."""
    num_without_masks: int
    """Images with status ok and no mask."""
    errors: tuple[ErrorGroup, ...]
    """Errors of images with another status than ok, the most frequent first."""
    prompt_errors: tuple[ErrorGroup, ...]
    """Errors of prompts and regions that could not be used, the most frequent first."""
    num_masks: int
    masks_per_image: Distribution
    """Over images with status ok. Exact up to 100,000 masks, and to 1 % beyond."""
    area: Distribution
    """Over masks, in pixels. Quantiles are within 2.3 %."""
    predicted_iou: Distribution
    """Over masks; quantiles within 0.001."""
    stability_score: Distribution
    """Over masks; quantiles within 0.001."""
    coverage: Distribution
    """Over images with status ok: the areas of an image's masks added up, as a share of the image. Above 1 where masks
    lie in one another. Quantiles are within 0.001 up to 10, and within 1 % beyond."""
    score: Distribution
    """The detector's score, of whatever range, over masks whose prompt has one. Quantiles are as exact as those of
    coverage."""
    box_iou: Distribution
    """IoU of the prompt's box with the mask's own, over masks whose prompt has one."""
    categories: tuple[CategoryCount, ...]
    """Masks by category, the most frequent first; those without one are not counted."""
    curves: tuple[ThresholdCurve, ...]
    """What is left for each value of pred_iou_thresh and stability_score_thresh."""

    def to_dict(self) -> dict[str, Any]:
        """All figures as values of JSON."""
        return dataclasses.asdict(self)


def read_statistics(
    results: Results,
    names: Categories,
    watch: Callable[[MaskNumbers], None] = lambda numbers: None,
) -> RunStatistics:
    """Compute the figures of a run in one pass, in bounded memory; pixels of masks are not read.

    Args:
        results: of the run; its selection decides which images and masks are looked at.
        names: of categories, as read_names_to_show gives them.
        watch: called with each part of the results that was read, in the order of reading.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    counted = _Counted()
    for numbers in read_mask_numbers(results):
        counted.add(numbers)
        watch(numbers)
    return counted.statistics(results, names)


def chosen_by(selection: Mapping[str, Any]) -> str:
    """Settings of a selection, for people."""
    return ", ".join(
        f"{name} = {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in selection.items()
    )


class _Counted:
    """Figures of the parts that were read so far."""

    def __init__(self) -> None:
        self._num_images = self._num_without_masks = 0
        self._num_by_status: Counter[str] = Counter()
        self._errors, self._prompt_errors = ErrorCounter(), ErrorCounter()
        self._masks_per_image, self._area, self._coverage = number_counter(), area_counter(), score_counter()
        self._scores = {
            "predicted_iou": score_counter(),
            "stability_score": share_counter(),
            "score": score_counter(),
        }
        self._box_iou = share_counter()
        self._categories: Counter[int] = Counter()
        self._category_images: Counter[int] = Counter()
        self._curves = (ThresholdCounter("pred_iou_thresh"), ThresholdCounter("stability_score_thresh"))

    def add(self, numbers: MaskNumbers) -> None:
        self._num_images += numbers.rows.num_rows
        for pair in numbers.rows["status"].value_counts().to_pylist():
            self._num_by_status[pair["values"]] += pair["counts"]
        self._errors.add_images(numbers.rows)
        self._prompt_errors.add_prompts(numbers.rows)
        ok = numbers.is_ok
        self._num_without_masks += int((numbers.num_masks[ok] == 0).sum())
        self._masks_per_image.add(numbers.num_masks[ok].astype(np.float64))
        area = numbers.of_masks("area")
        self._area.add(area)
        self._coverage.add((numbers.sum_by_image(area) / numbers.num_pixels)[ok])
        for name, counter in self._scores.items():
            if name != "score" or numbers.has_prompts:
                counter.add(numbers.of_masks(name))
        if numbers.has_prompts:
            self._box_iou.add(numbers.box_iou)
            self._add_categories(numbers)
        for curve in self._curves:
            curve.add(numbers)

    def _add_categories(self, numbers: MaskNumbers) -> None:
        pairs = pa.table({"row": numbers.row, "id": numbers.category_id}).drop_null()
        for counter, found in (
            (self._categories, pairs),
            (self._category_images, pairs.group_by(["row", "id"]).aggregate([])),
        ):
            for pair in found["id"].value_counts().to_pylist():
                counter[pair["values"]] += pair["counts"]

    def statistics(self, results: Results, names: Categories) -> RunStatistics:
        area = self._area.distribution()
        return RunStatistics(
            output=results.output,
            selection=results.selection.effective(),
            filters=tuple(filters_of(results.settings)),
            num_planned=results.num_images,
            num_done=results.num_done,
            num_images=self._num_images,
            num_by_status=dict(self._num_by_status.most_common()),
            num_without_masks=self._num_without_masks,
            errors=self._errors.groups(),
            prompt_errors=self._prompt_errors.groups(),
            num_masks=area.num,
            masks_per_image=self._masks_per_image.distribution(),
            area=area,
            coverage=self._coverage.distribution(),
            **{name: counter.distribution() for name, counter in self._scores.items()},
            box_iou=self._box_iou.distribution(),
            categories=tuple(
                CategoryCount(number, names.name(number), num_masks, self._category_images[number])
                for number, num_masks in sorted(self._categories.items(), key=lambda item: (-item[1], item[0]))
            ),
            curves=tuple(curve.curve() for curve in self._curves),
        )
