"""The kernel by Triton's interpreter: small masks, for time."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from sam_pipeline.masks import mask_kernels, triton_masks
from sam_pipeline.masks.composed_resize import composed_axis

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU tests/gpu runs the kernels, compiled")

SIDE = 12  # low-resolution logits along a side, of an input of 48 pixels


def masks():
    coarse = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(5)) * 8
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[:, 0]
    odd = torch.full((3, SIDE, SIDE), 5.0)
    odd[0, 4, 4], odd[1, 4, 4], odd[2] = torch.nan, torch.inf, -torch.inf
    on_the_thresholds = torch.stack([torch.full((SIDE, SIDE), value) for value in (-1.0, 0.0, 1.0)])
    return torch.cat([smooth, odd, on_the_thresholds])


@pytest.mark.parametrize(
    ("input_size", "size"),
    [
        ((36, 48), (22, 27)),  # larger, more rows a cell than are computed at once, and padding below
        ((48, 48), (5, 7)),  # smaller, so that logits are skipped
        ((2, 48), (1, 60)),
    ],
)
def test_counts_and_boxes_are_those_of_the_cpu_to_the_bit(input_size, size, monkeypatch):
    monkeypatch.setattr(triton_masks, "_CELLS", 8)
    monkeypatch.setattr(triton_masks, "_ROWS", 2)
    low_res_masks = masks()[:, : input_size[0] // 4 + 2].contiguous()
    rows, columns = (composed_axis(SIDE, input_size[axis], size[axis]) for axis in (0, 1))
    with np.errstate(invalid="ignore"):  # no number, times a weight
        ours = triton_masks.measure_masks(low_res_masks, rows, columns, 0.0, 1.0)
    theirs = mask_kernels.measure_masks(low_res_masks.numpy(), rows, columns, 0.0, 1.0)
    assert any(count > 0 for count in theirs[0].flatten())
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_masks_give_nothing():
    axis = composed_axis(SIDE, 48, 30)
    counts, boxes = triton_masks.measure_masks(torch.zeros(0, SIDE, SIDE), axis, axis, 0.0, 1.0)
    assert counts.shape == (0, 2)
    assert boxes.shape == (0, 4)
