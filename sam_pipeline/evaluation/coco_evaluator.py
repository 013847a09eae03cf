"""Average precision and recall over batches of images, by faster-coco-eval."""

from __future__ import annotations

import copy
import importlib
import pickle
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.boundaries import boundary_ious
from sam_pipeline.evaluation.image_pair import ImagePair
from sam_pipeline.evaluation.settings import IouKind

MAX_DETS = (1, 10, 100, 1000)
SIZES = ("all", "small", "medium", "large")
"""Sizes of objects, as COCO divides them: at 32² and 96² pixels."""

# Smaller packs compress worse; larger ones keep more of the library's large objects unpacked.
_IMAGES_IN_A_PACK = 16

Ious = Mapping[tuple[int, int], NDArray[np.float64]]
"""By number of an image and category: (masks, objects), masks by descending score, objects in their order."""


def check_installed() -> None:
    """Raise ConfigError, which names the command, unless the library of the extra `eval` is installed."""
    try:
        importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ConfigError(f"evaluation needs faster-coco-eval ({error}): pip install 'sam-pipeline[eval]'") from None


class CocoEvaluator:
    """AP and AR of one kind of IoU.

    The library matches the masks of a batch with objects. What it finds is kept packed, some 40 bytes a mask and 130
    for each category of an image, where the library takes half a kilobyte a mask. It is unpacked at the end, for one
    category and one range of sizes at a time.

    Args:
        kind: of IoU.
    """

    def __init__(self, kind: IouKind) -> None:
        self._kind = kind
        self._found: dict[int, _Found] = defaultdict(_Found)
        """By category."""

    def add(self, pairs: Sequence[ImagePair]) -> Ious:
        """Match the masks of some images, none of which was there before; returns their IoU."""
        truth = {pair.number: pair.truth_of(self._kind) for pair in pairs}
        categories = sorted({each["category_id"] for pair in pairs for each in (*truth[pair.number], *pair.masks)})
        if not categories:
            return {}
        numbers = sorted(truth)
        evaluator = _library_evaluator(self._kind, categories, numbers)
        evaluator.cocoGt = _library_dataset(pairs, truth, categories)
        evaluator.cocoDt = _library_dataset(
            pairs, {pair.number: _sized(pair.masks, self._kind) for pair in pairs}, categories
        )
        evaluator.evaluate()
        found = np.array(evaluator._evalImgs_cpp, object).reshape(len(categories), len(SIZES), len(numbers))
        known = {(pair.number, each["category_id"]) for pair in pairs for each in (*truth[pair.number], *pair.masks)}
        for row, category in enumerate(categories):
            for column, number in enumerate(numbers):
                if (number, category) in known:
                    self._found[category].add(number, list(found[row, :, column]))
        return {
            (int(number), int(category)): np.asarray(ious)
            for (number, category), ious in evaluator.ious.items()
            if len(ious)
        }

    def accumulate(self, categories: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision and recall as COCO defines them; -1 where there are no objects.

        Args:
            categories: in the order wanted.

        Returns:
            precision (10, 101, K, 4, 4) by IoU threshold, recall, category, SIZES and MAX_DETS, and recall
            (10, K, 4, 4).
        """
        precision = np.full((10, 101, len(categories), len(SIZES), len(MAX_DETS)), -1.0)
        recall = np.full((10, len(categories), len(SIZES), len(MAX_DETS)), -1.0)
        for place, category in enumerate(categories):
            for size in range(len(SIZES) if category in self._found else 0):
                found = sorted(self._found[category].of_size(size), key=lambda each: each[0])
                evaluator = _library_evaluator(self._kind, [category], [number for number, _ in found])
                evaluator.params.areaRng = [evaluator.params.areaRng[size]]
                evaluator._paramsEval = copy.deepcopy(evaluator.params)
                evaluator._evalImgs_cpp = [each for _, each in found]
                evaluator.accumulate()
                precision[:, :, place, size] = evaluator.eval["precision"][:, :, 0, 0]
                recall[:, place, size] = evaluator.eval["recall"][:, 0, 0]
        return precision, recall


class _Found:
    """What the library has found of a category in some images, for each of SIZES."""

    def __init__(self) -> None:
        self._recent: list[tuple[int, list[Any]]] = []
        self._packed: list[tuple[list[int], list[bytes]]] = []
        """Numbers of images, and what was found in them for each of SIZES."""

    def add(self, number: int, by_size: list[Any]) -> None:
        """Keep what was found in an image."""
        self._recent.append((number, by_size))
        if len(self._recent) >= _IMAGES_IN_A_PACK:
            numbers, found = zip(*self._recent, strict=True)
            self._packed.append((list(numbers), [_packed(of_size) for of_size in zip(*found, strict=True)]))
            self._recent = []

    def of_size(self, size: int) -> Iterator[tuple[int, Any]]:
        """The number of each image, and what was found in it for one of SIZES."""
        for numbers, by_size in self._packed:
            # Packed by ourselves, in this process: nothing from outside is unpickled.
            yield from zip(numbers, pickle.loads(zlib.decompress(by_size[size])), strict=True)
        for number, found in self._recent:
            yield number, found[size]


def _packed(found: Sequence[Any]) -> bytes:
    return zlib.compress(pickle.dumps(found), 1)


def _library_evaluator(kind: IouKind, categories: Sequence[int], numbers: Sequence[int]) -> Any:
    from faster_coco_eval import COCOeval_faster

    class BoundaryEvaluator(COCOeval_faster):  # type: ignore[misc]  # the library has no types
        """Its own boundaries are eroded in the whole image, which takes a second in one of twelve megapixels."""

        def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802  the library's name
            ious = super().computeIoU(imgId, catId)
            return ious if len(ious) == 0 else _with_boundaries(ious, self.cocoDt, self.cocoGt, imgId, catId)

    evaluator_class = BoundaryEvaluator if kind == "boundary" else COCOeval_faster
    evaluator = evaluator_class(iouType="bbox" if kind == "box" else "segm", separate_eval=True)
    evaluator.params.maxDets = list(MAX_DETS)
    evaluator.params.catIds, evaluator.params.imgIds = list(categories), list(numbers)
    return evaluator


def _with_boundaries(ious: NDArray[np.float64], masks: Any, truth: Any, number: int, category: int) -> Any:
    """The lesser of the IoU of masks and of their boundaries; of crowds the former, (masks, objects)."""
    found, objects = (
        [each for each in dataset.imgToAnns[number] if each["category_id"] == category] for dataset in (masks, truth)
    )
    order = np.argsort([-each["score"] for each in found], kind="stable")[: len(ious)]
    is_crowd = np.array([each["iscrowd"] for each in objects], bool)
    lesser = boundary_ious(
        ious[:, ~is_crowd],
        [found[place]["segmentation"] for place in order],
        [each["segmentation"] for each, crowd in zip(objects, is_crowd, strict=True) if not crowd],
    )
    joined = ious.copy()
    joined[:, ~is_crowd] = lesser
    return joined


def _library_dataset(
    pairs: Sequence[ImagePair], annotations: Mapping[int, Sequence[Mapping[str, Any]]], categories: Sequence[int]
) -> Any:
    from faster_coco_eval import COCO

    dataset = COCO()
    numbered = ((pair.number, each) for pair in pairs for each in annotations[pair.number])
    dataset.dataset = {
        "images": [{"id": pair.number, "height": pair.size_hw[0], "width": pair.size_hw[1]} for pair in pairs],
        # Ids from 1: to the library an object with the id 0 is never found.
        "annotations": [{**each, "id": place, "image_id": number} for place, (number, each) in enumerate(numbered, 1)],
        "categories": [{"id": category, "name": str(category)} for category in categories],
    }
    dataset.createIndex()
    return dataset


def _sized(masks: Sequence[Mapping[str, Any]], kind: IouKind) -> Sequence[Mapping[str, Any]]:
    """Masks with the area that COCO uses to ignore unmatched masks of another size."""
    if kind != "box":
        return masks
    return [{**mask, "area": mask["bbox"][2] * mask["bbox"][3]} for mask in masks]
