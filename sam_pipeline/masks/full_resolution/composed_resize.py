"""Both resizes of SAM's postprocessing as one: every pixel of the image from at most 3 x 3 low-resolution logits.

The official code upscales logits by 4 to the padded model input, crops, and resizes to the image, both bilinearly. Each
is linear and separable, so along an axis a pixel is a weighted sum of at most three neighbouring logits. The padding is
cut off between the two, and the second resize clamps at that edge; so do the weights here.

Reproduces `postprocess_masks` of segment_anything/modeling/sam.py up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SCALE = 4
"""Model input pixels per low-resolution logit."""

LONGEST_KEPT = 2**16
"""Axes of more pixels are made anew for each image: a few of them would take all of a worker's memory."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Weights along one axis of n pixels. Shared by all images of that size: not to be changed."""

    starts: NDArray[np.int32]
    """First of the three logits of each pixel, (n,), ascending."""
    weights: NDArray[np.float32]
    """(n, 3)."""
    groups: NDArray[np.int32]
    """Where pixels with the same start begin, and n in the end."""


def composed_axis(num_logits: int, input_length: int, length: int) -> Axis:
    """Compose the two resizes along one axis; those of common lengths are kept.

    Args:
        num_logits: of the low-resolution mask, padding included; at least 3.
        input_length: pixels of the model input before padding.
        length: pixels of the image or crop.
    """
    compose = _kept if length <= LONGEST_KEPT else _compose
    return compose(num_logits, input_length, length)


def _compose(num_logits: int, input_length: int, length: int) -> Axis:
    (low0, low1), low_weights = _bilinear(num_logits, num_logits * SCALE)
    (mid0, mid1), mid_weights = _bilinear(input_length, length)
    starts = np.minimum(low0[mid0], num_logits - 3)
    weights = np.zeros((length, 3), np.float32)
    pixels = np.arange(length)
    for mid, mid_weight in ((mid0, mid_weights[0]), (mid1, mid_weights[1])):
        for low, low_weight in ((low0, low_weights[0]), (low1, low_weights[1])):
            weights[pixels, low[mid] - starts] += mid_weight * low_weight[mid]
    groups = np.concatenate([[0], np.flatnonzero(np.diff(starts)) + 1, [length]])
    return Axis(starts.astype(np.int32), weights, groups.astype(np.int32))


_kept = lru_cache(maxsize=64)(_compose)


def _bilinear(
    length_in: int, length_out: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The two source pixels of each target pixel and their weights, in the float32 arithmetic of torch."""
    scale = np.float32(length_in) / np.float32(length_out)
    half = np.float32(0.5)
    source = np.maximum((np.arange(length_out, dtype=np.float32) + half) * scale - half, np.float32(0))
    first = np.minimum(source.astype(np.int64), length_in - 1)
    second = np.minimum(first + 1, length_in - 1)
    weight = source - first.astype(np.float32)
    return (first, second), (np.float32(1) - weight, weight)
