"""Comparing the masks of a run with ground truth, a batch of images at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.errors import InputError
from sam_pipeline.evaluation.best_matches import BestMatches, best_matches, total
from sam_pipeline.evaluation.coco_evaluator import CocoEvaluator, check_installed
from sam_pipeline.evaluation.figures import Evaluation, Figures, ImageFigures, figures
from sam_pipeline.evaluation.ground_truth.annotation_file import GroundTruth, read_ground_truth
from sam_pipeline.evaluation.ground_truth.category_matching import ComparedCategories, match_categories
from sam_pipeline.evaluation.pairing import ComparedImage, Counts, compared_images, iterate_pairs
from sam_pipeline.evaluation.ranking import resolve_ranking
from sam_pipeline.evaluation.settings import EvaluationSettings, IouKind
from sam_pipeline.results.results import Results
from sam_pipeline.storage.objects.filesystem import absolute_uri
from sam_pipeline.storage.tables.plan import existing_plan

logger = logging.getLogger(__name__)

ShowProgress = Callable[[int], AbstractContextManager[Callable[[int], object]]]


def _ignore(num_images: int) -> None:
    """What is told of progress where nobody wants to know."""


def evaluate(
    results: Results, settings: EvaluationSettings, showing_progress: ShowProgress = lambda total: nullcontext(_ignore)
) -> Evaluation:
    """Compare the masks of a run, as its selection shows them, with the objects of a COCO file.

    Images of both sides are compared, an image that could not be annotated as one without masks. Held in memory are
    the annotation file; for each kind of IoU, some 40 bytes a mask and 130 for each category of an image; and some 2 kB
    for each image of the run.

    Args:
        results: of the run.
        settings: what it is compared with, and how.
        showing_progress: is called with the number of images, and opened as long as they are compared; what it gives
            is told how many were compared since the last call.

    Raises:
        ConfigError: the library of the extra `eval` is missing; run and ground truth have no category in common, or
            masks have no score to be ranked by.
        InputError: the ground truth cannot be read, or has no object of any image of the run; an image's name is
            ambiguous.
        OutputError, StorageUnavailableError: the results cannot be read.
    """
    check_installed()
    uri, options = absolute_uri(settings.ground_truth), results.storage_options
    truth = read_ground_truth(uri, options, is_input=existing_plan(results.output, options).input == uri)
    if truth.num_stray:
        logger.warning("%d annotations name no image of %s: left out", truth.num_stray, truth.uri)
    if (num_left := results.num_images - results.num_done) > 0:
        logger.warning("the run is not finished: %d images have no result yet, and are not compared", num_left)
    counts = Counts()
    images = compared_images(results, truth, counts)
    kinds = _kinds(settings, truth, images)
    categories = match_categories(results, truth, class_agnostic=settings.class_agnostic, place=settings.categories)
    if truth.num_uncategorized and not categories.class_agnostic:
        logger.warning("%d annotations name no category of %s: left out", truth.num_uncategorized, truth.uri)
    rank_by = resolve_ranking(results, settings.rank_by)
    evaluators = {kind: CocoEvaluator(kind) for kind in kinds}
    by_number = {image.number: image for image in images}
    compared: list[ImageFigures] = []
    with_objects: set[int] = set()
    with showing_progress(len(images)) as advance:
        for pairs in iterate_pairs(results, truth, images, categories, rank_by, counts):
            matches: dict[int, dict[IouKind, BestMatches]] = {pair.number: {} for pair in pairs}
            for kind, evaluator in evaluators.items():
                ious = evaluator.add(pairs)
                for pair in pairs:
                    matches[pair.number][kind] = best_matches(pair.number, pair.truth_of(kind), ious)
            compared += [ImageFigures(by_number[pair.number], len(pair.masks), matches[pair.number]) for pair in pairs]
            with_objects |= {each["category_id"] for pair in pairs for each in pair.truth}
            advance(len(pairs))
    if not counts.num_objects:
        raise InputError(f"no objects in {truth.uri} for the {len(images)} images that the run has too")
    # Of a category without objects there is nothing to tell, and a list such as that of LVIS is long.
    numbers = [number for number in categories.names if number in with_objects]
    found, by_category = _accumulated(evaluators, categories, numbers, compared)
    compared.sort(key=lambda each: each.image.image_id)
    return Evaluation(
        output=results.output,
        ground_truth=truth.uri,
        selection=results.selection.effective(),
        rank_by=rank_by,
        class_agnostic=categories.class_agnostic,
        counts=counts,
        figures=found,
        by_category=by_category,
        images=compared,
    )


def _kinds(settings: EvaluationSettings, truth: GroundTruth, images: Sequence[ComparedImage]) -> list[IouKind]:
    """The kinds of IoU that the ground truth has something for: masks need masks."""
    has_masks = any(
        annotation.get("segmentation")
        for image in images
        for annotation in truth.annotations.get(image.truth.image_id, [])
    )
    kinds = [kind for kind in settings.kinds if has_masks or kind == "box"]
    if not has_masks:
        if not kinds:
            raise InputError(f"{truth.uri} has no masks of the images that the run has too; compare boxes (iou = box)")
        if len(kinds) < len(settings.kinds):
            logger.warning("%s has boxes alone: masks and boundaries are not compared", truth.uri)
    return kinds


def _accumulated(
    evaluators: dict[IouKind, CocoEvaluator],
    categories: ComparedCategories,
    numbers: Sequence[int],
    compared: Sequence[ImageFigures],
) -> tuple[dict[IouKind, Figures], list[dict[str, Any]]]:
    """Figures of all images, and those of each category; numbers are those that have objects."""
    found: dict[IouKind, Figures] = {}
    by_category: dict[int, dict[str, Any]] = {}
    for kind, evaluator in evaluators.items():
        precision, recall = evaluator.accumulate(numbers)
        found[kind] = figures(precision, recall, total([each.matches[kind] for each in compared]))
        if categories.class_agnostic:
            continue
        for place, number in enumerate(numbers):
            of_one = _of_category(precision, recall, place)
            if of_one["AP"] is not None:
                row = by_category.setdefault(number, {"id": number, "name": categories.names[number]})
                row |= {f"{kind}_{name}": of_one[name] for name in ("AP", "AP50", "AP75", "AR@100", "AR@1000")}
    return found, list(by_category.values())


def _of_category(precision: NDArray[np.float64], recall: NDArray[np.float64], place: int) -> Figures:
    no_matches = total([])
    return figures(precision[:, :, place : place + 1], recall[:, place : place + 1], no_matches)
