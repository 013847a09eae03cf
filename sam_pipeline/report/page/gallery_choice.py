"""Which images are shown: some at random, and those that stand out. Decided in the pass that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sam_pipeline.report.counting.mask_numbers import MaskNumbers
from sam_pipeline.results.categories import Categories

_OF_EACH_CATEGORY = 4
_MOST_CATEGORIES = 10_000

# Shares of the pictures of a page; what kinds without images leave goes to those at random.
_SHARES = {"random": 3, "category": 2, "box": 1, "lowest": 1, "most": 1, "fewest": 1}
_TITLES = {
    "random": "At random",
    "most": "Most masks",
    "fewest": "Fewest masks",
    "lowest": "Lowest predicted IoU",
    "box": "Masks far from the box of their prompt",
    "category": "By category",
}


@dataclass(frozen=True)
class Group:
    """Images that are shown for the same reason."""

    title: str
    image_ids: tuple[int, ...]
    names: tuple[str, ...] = ()
    """Name of the category for which each image is shown; empty in other groups."""


class GalleryChoice:
    """Keeps the ids of images that stand out, in memory that does not grow with the run.

    Args:
        num_pictures: images to show at most.
        seed: of the images at random; the same seed and images give the same choice.
    """

    def __init__(self, num_pictures: int, seed: int = 0) -> None:
        self._num_pictures, self._seed = num_pictures, seed
        self._num_ok = 0
        # As many of each kind as there are pictures: some are shown for another reason already.
        self._kinds = {name: _Lowest(num_pictures) for name in _SHARES if name != "category"}
        self._by_category: dict[int, _Lowest] = {}
        self._masks_of_category: dict[int, int] = {}

    def watch(self, numbers: MaskNumbers) -> None:
        """Look at some images."""
        ok = numbers.is_ok
        ids, counts = numbers.image_id[ok], numbers.num_masks[ok]
        self._num_ok += len(ids)
        has_masks = counts > 0
        random = _random(ids, self._seed)
        self._kinds["random"].add(ids, random)
        self._kinds["most"].add(ids[has_masks], -counts[has_masks].astype(np.float64))
        self._kinds["fewest"].add(ids, counts.astype(np.float64))
        mean = numbers.sum_by_image(np.nan_to_num(numbers.of_masks("predicted_iou")))[ok][has_masks] / counts[has_masks]
        self._kinds["lowest"].add(ids[has_masks], mean)
        if numbers.has_prompts:
            self._watch_prompts(numbers)

    def _watch_prompts(self, numbers: MaskNumbers) -> None:
        box_iou, row = numbers.box_iou, numbers.row
        worst = np.full(numbers.rows.num_rows, np.inf)
        np.minimum.at(worst, row, np.where(np.isnan(box_iou), np.inf, box_iou))
        has_box = np.isfinite(worst)
        self._kinds["box"].add(numbers.image_id[has_box], worst[has_box])
        pairs = pa.table({"row": row, "id": numbers.category_id}).drop_null()
        for pair in pairs["id"].value_counts().to_pylist():
            number = pair["values"]
            self._masks_of_category[number] = self._masks_of_category.get(number, 0) + pair["counts"]
        distinct = pairs.group_by("id").aggregate([("row", "distinct")])
        for number, rows in zip(distinct["id"].to_pylist(), distinct["row_distinct"].to_pylist(), strict=True):
            if number not in self._by_category:
                if len(self._by_category) >= _MOST_CATEGORIES:
                    continue
                self._by_category[number] = _Lowest(_OF_EACH_CATEGORY)
            ids = numbers.image_id[rows]
            self._by_category[number].add(ids, _random(ids, self._seed + 1))

    def groups(self, names: Categories) -> list[Group]:
        """The images to show, each once; all of them in one group if they are few enough."""
        if self._num_ok <= self._num_pictures:
            ids = tuple(sorted(self._kinds["random"].ids()))
            return [Group("All images", ids)] if ids else []
        wanted: dict[str, Sequence[int]] = {name: kind.ids() for name, kind in self._kinds.items()}
        frequent = sorted(self._by_category, key=lambda number: (-self._masks_of_category[number], number))
        category_of: dict[int, int] = {}
        for number in frequent:
            new = (image_id for image_id in self._by_category[number].ids() if image_id not in category_of)
            if (image_id := next(new, None)) is not None:
                category_of[image_id] = number
        wanted["category"] = list(category_of)
        chosen = _shared_out(wanted, self._num_pictures)
        return [
            Group(
                _TITLES[kind],
                tuple(ids),
                tuple(names.name(category_of[image_id]) for image_id in ids) if kind == "category" else (),
            )
            for kind, ids in chosen.items()
            if ids
        ]


def _shared_out(wanted: Mapping[str, Sequence[int]], num_pictures: int) -> dict[str, list[int]]:
    """The first of each kind that no kind before it has, by its share; what is left goes to those at random."""
    present = [kind for kind in _TITLES if wanted[kind]]
    total = sum(_SHARES[kind] for kind in present)
    chosen: dict[str, list[int]] = {kind: [] for kind in _TITLES}
    shown: set[int] = set()

    def take(kind: str, most: int) -> None:
        for image_id in wanted[kind]:
            if most <= 0 or len(shown) >= num_pictures:
                return
            if image_id not in shown:
                shown.add(image_id)
                chosen[kind].append(image_id)
                most -= 1

    # Of a category there may be one image alone, and at random there are always others.
    for kind in sorted(present, key=lambda kind: (kind == "random", kind != "category")):
        take(kind, max(1, num_pictures * _SHARES[kind] // total))
    take("random", num_pictures)
    return chosen


class _Lowest:
    """The ids with the lowest keys of all that were added; of equal keys, those with the lowest ids."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids = np.empty(0, np.int64)
        self._keys = np.empty(0, np.float64)

    def add(self, ids: NDArray[np.int64], keys: NDArray[np.float64]) -> None:
        if not self._most:
            return
        if len(self._ids) == self._most:
            better = keys <= self._keys[-1]
            ids, keys = ids[better], keys[better]
        if not len(ids):
            return
        ids, keys = np.concatenate([self._ids, ids]), np.concatenate([self._keys, keys])
        order = np.lexsort((ids, keys))[: self._most]
        self._ids, self._keys = ids[order], keys[order]

    def ids(self) -> list[int]:
        found: list[int] = self._ids.tolist()
        return found


def _random(ids: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each id that is as good as random, (n,): splitmix64 of Steele, Lea and Flood (2014)."""
    with np.errstate(over="ignore"):
        mixed = ids.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed / np.float64(2**64)
