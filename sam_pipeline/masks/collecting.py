"""Collecting the candidates of a crop in batches, in bounded memory, with the same result as one NMS over them all.

Greedy NMS cannot say early which candidate survives: a later one may suppress the one that suppressed it. So boxes and
scores of all candidates are kept, and the masks of those that survive NMS among the candidates so far. If the final NMS
keeps a candidate whose mask was dropped, its batch is decoded again: the same batch gives the same mask to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks.candidates import Candidates
from sam_pipeline.masks.nms import nms
from sam_pipeline.masks.runs.runs import Runs

MAX_HELD_BYTES = 2**28
"""Logits that the candidates of an image may hold: those of a thousand masks."""


def collect(
    decode: Callable[[int], Candidates[Tensor]],
    num_batches: int,
    to_runs: Callable[[Sequence[Tensor]], Iterator[Runs]],
    nms_thresh: float,
    max_held_bytes: int,
) -> Candidates[Tensor] | Candidates[Runs]:
    """Decode the batches of a crop.

    Args:
        decode: gives the candidates of a batch by its number; the same ones each time.
        num_batches: how many there are.
        to_runs: computes pixels from logits.
        nms_thresh: of the crop.
        max_held_bytes: logits to hold.

    Returns:
        All candidates with their logits, if those are few enough; else the ones that survive NMS, with their pixels.
    """
    found: Candidates[Any] = Candidates.concatenate([])
    parts: list[Candidates[Any]] = []
    batches: list[int] = []  # of each candidate
    num_bytes, are_masks_missing = 0, False
    for number in range(num_batches):
        parts.append(decode(number))
        batches += [number] * len(parts[-1].masks)
        num_bytes += held_bytes(parts[-1])
        if num_bytes > max_held_bytes:
            found = _without_masks_of_duplicates(Candidates.concatenate([found, *parts]), to_runs, nms_thresh)
            parts.clear()
            num_bytes, are_masks_missing = 0, True
    found = Candidates.concatenate([found, *parts])
    if not are_masks_missing:
        return found
    keep = nms(found.boxes_xyxy, found.iou_predictions, nms_thresh)
    masks: list[Any] = _as_runs(found.masks, keep, to_runs)
    for number in sorted({batches[i] for i in keep if masks[i] is None}):
        where = [i for i, of_batch in enumerate(batches) if of_batch == number]
        for i, mask in zip(where, decode(number).masks, strict=True):
            masks[i] = mask if masks[i] is None else masks[i]
        masks = _as_runs(masks, keep, to_runs)
    return found.with_masks(masks).take(keep)


def held_bytes(found: Candidates[Any]) -> int:
    """What the logits of candidates take; pixels, as runs, count as nothing."""
    return sum(mask.nbytes for mask in found.masks if isinstance(mask, Tensor))


def _without_masks_of_duplicates(
    found: Candidates[Any], to_runs: Callable[[Sequence[Tensor]], Iterator[Runs]], nms_thresh: float
) -> Candidates[Any]:
    """All candidates; of those with a mask only the ones that survive NMS keep it, as runs."""
    have_mask = np.array([i for i, mask in enumerate(found.masks) if mask is not None], np.int64)
    keep = have_mask[nms(found.boxes_xyxy[have_mask], found.iou_predictions[have_mask], nms_thresh)]
    return found.with_masks(_as_runs(found.masks, keep, to_runs))


def _as_runs(
    masks: Sequence[Tensor | Runs | None],
    keep: NDArray[np.int64],
    to_runs: Callable[[Sequence[Tensor]], Iterator[Runs]],
) -> list[Tensor | Runs | None]:
    """The masks to keep as runs, None for all others, and for one that is missing."""
    kept: list[Tensor | Runs | None] = [None] * len(masks)
    logits = {}
    for i in keep.tolist():
        mask = masks[i]
        if isinstance(mask, Tensor):
            logits[i] = mask
        else:
            kept[i] = mask
    for i, runs in zip(logits, to_runs(list(logits.values())), strict=True):
        kept[i] = runs
    return kept
