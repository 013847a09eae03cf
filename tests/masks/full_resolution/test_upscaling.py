import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.filters import mask_boxes
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from sam_pipeline.masks.geometry.resize import preprocess_shape
from sam_pipeline.masks.runs.runs import Runs

SIDE = 32  # low-resolution logits along a side of the tiny model, whose input has 128 pixels

# A pixel may fall on either side of a threshold that its logit is this close to.
NEAR = 1e-4


def logits(seed, num_masks, smoothness):
    coarse = torch.randn(num_masks, 1, smoothness, smoothness, generator=torch.Generator().manual_seed(seed)) * 8
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[:, 0].contiguous()


def upscaled(sam, upscaling, low_res_masks):
    return sam.postprocess_masks(low_res_masks[None], upscaling.input_size, upscaling.crop_size)[0]


sizes = st.one_of(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from([(1, 1), (1, 300), (300, 1), (128, 128), (1024, 3), (2, 1500), (127, 129)]),
)


@given(
    size=sizes, seed=st.integers(0, 10**6), smoothness=st.integers(2, 32), offset=st.sampled_from([0.0, 0.5, 1.0, 9.0])
)
def test_counts_boxes_and_pixels_are_those_of_two_resizes_by_torch(tiny_sam, size, seed, smoothness, offset):
    upscaling = Upscaling(tiny_sam, preprocess_shape(*size, 128), size)
    low_res_masks = logits(seed, 3, smoothness)
    rows = 4 * upscaling.num_embedding_rows
    stability, boxes = upscaling.measure(low_res_masks[:, :rows], offset)
    masks = upscaling.binarize(low_res_masks[:, :rows]).numpy()
    for runs, mask in zip(upscaling.runs(list(low_res_masks[:, :rows])), masks, strict=True):
        assert runs.size == size
        assert runs.edges.tolist() == Runs.of_mask(mask).edges.tolist()

    expected = upscaled(tiny_sam, upscaling, low_res_masks)
    certain = (expected.abs() > NEAR).numpy()
    assert (masks == (expected > 0).numpy())[certain].all()
    for index in range(3):
        near = [int(((expected[index] - t).abs() <= NEAR).sum()) for t in (offset, -offset)]
        high, low = (int((expected[index] > t).sum()) for t in (offset, -offset))
        if not any(near):
            expected_stability = np.float32(high) / np.float32(low) if low else np.float32(np.nan)
            np.testing.assert_array_equal(stability[index], expected_stability)
        if certain[index].all():
            assert boxes[index].tolist() == mask_boxes(expected[index : index + 1] > 0)[0].tolist()


def test_logits_that_are_no_numbers_belong_to_no_mask_and_spoil_no_other_pixel(tiny_sam):
    upscaling = Upscaling(tiny_sam, (96, 128), (150, 200))
    low_res_masks = torch.full((3, SIDE, SIDE), 5.0)
    low_res_masks[0, 10, 10] = torch.nan
    low_res_masks[1, 10, 10] = torch.inf
    low_res_masks[2] = -torch.inf
    stability, boxes = upscaling.measure(low_res_masks, 1.0)
    masks = upscaling.binarize(low_res_masks).numpy()
    assert [runs.area() for runs in upscaling.runs(list(low_res_masks))] == [mask.sum() for mask in masks]
    for index in (0, 1):
        assert 0.95 < masks[index].mean() < 1
        assert boxes[index].tolist() == [0, 0, 199, 149]
        assert stability[index] == 1
    assert not masks[2].any()
    assert np.isnan(stability[2])
    assert boxes[2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_logits_on_a_threshold_are_not_above_it(tiny_sam, value):
    upscaling = Upscaling(tiny_sam, (128, 128), (128, 128))
    stability, boxes = upscaling.measure(torch.full((1, SIDE, SIDE), value), 1.0)
    assert upscaling.binarize(torch.full((1, SIDE, SIDE), value)).all() == (value > 0)
    assert next(upscaling.runs([torch.full((SIDE, SIDE), value)])).area() == (value > 0) * 128**2
    assert boxes.any() == (value > 0)
    np.testing.assert_array_equal(stability, np.float32([np.nan if value == -1 else 0]))


def test_no_masks_give_nothing(tiny_sam):
    upscaling = Upscaling(tiny_sam, (96, 128), (30, 40))
    stability, boxes = upscaling.measure(torch.zeros(0, SIDE, SIDE), 1.0)
    assert stability.shape == (0,)
    assert boxes.shape == (0, 4)
    assert upscaling.binarize(torch.zeros(0, SIDE, SIDE)).shape == (0, 30, 40)
    assert list(upscaling.runs([])) == []
