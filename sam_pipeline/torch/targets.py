"""Rows of a run as targets of a detector, by the conventions of torchvision's detection models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from sam_pipeline.masks.runs import rle
from sam_pipeline.results.categories import read_categories, used_category_ids
from sam_pipeline.results.results import Results

MASK_FIELDS = ("segmentation", "category_id")
"""Fields of stored masks of which targets are made."""

Labels = Mapping[int | None, int]
"""The label of each stored category_id, and under None that of masks without one; all are at least 1."""


class Target(TypedDict):
    """The masks of one image; N may be 0."""

    boxes: Tensor
    """(N, 4) float32, x1, y1, x2, y2 in pixels of the image: around the pixels of the mask, so x2 is the column after
    the last and always above x1."""
    labels: Tensor
    """(N,) int64, at least 1: 0 is the background."""
    masks: Tensor
    """(N, H, W) uint8, 0 or 1."""
    image_id: int
    area: Tensor
    """(N,) float32, pixels of the mask."""
    iscrowd: Tensor
    """(N,) int64, all 0."""


def detection_target(
    image_id: int, masks: Sequence[Mapping[str, Any]], size_hw: tuple[int, int], labels: Labels
) -> Target:
    """Expand the masks of an image.

    Args:
        image_id: of the image.
        masks: as stored, with MASK_FIELDS. One without pixels is left out.
        size_hw: of the image, in pixels.
        labels: of every category that masks have.
    """
    pixels = np.zeros((len(masks), *size_hw), np.uint8)
    drawn = [rle.draw(mask["segmentation"], each) for mask, each in zip(masks, pixels, strict=True)]
    kept = [number for number, (_, area) in enumerate(drawn) if area]
    if len(kept) < len(masks):
        pixels = pixels[kept]
    return Target(
        boxes=torch.tensor([drawn[number][0] for number in kept], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([labels[masks[number].get("category_id")] for number in kept], dtype=torch.int64),
        masks=torch.from_numpy(pixels),
        image_id=image_id,
        area=torch.tensor([drawn[number][1] for number in kept], dtype=torch.float32),
        iscrowd=torch.zeros(len(kept), dtype=torch.int64),
    )


def read_labels(results: Results, categories: str | None = None) -> tuple[Labels, dict[int, str]]:
    """The labels of a run's categories: the ids under which exports write them.

    They depend only on the names of categories, not on the masks stored so far, nor on the selection. But if that keeps
    masks of the grid alone, and categories is None, the only label is 1.

    Args:
        results: of the run.
        categories: where names are, as for read_categories. Without it masks of a grid have the label 1.

    Returns:
        Label by stored category_id, and name by label.

    Raises:
        InputError: the file with the names cannot be read, or holds none.
        ConfigError: a mask has a category without a name.
        StorageUnavailableError: storage did not answer.
    """
    found = read_categories(results, categories, is_needed=True)
    for category_id in used_category_ids(results):
        found.export_id(category_id)  # raises for one without a name
    labels: dict[int | None, int] = {each: found.export_id(each) for each in (*found.names, None)}
    return labels, {label: found.name(each) for each, label in labels.items()}
