"""Each function of `utils.amg` against the official one, on random input."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sam_pipeline.utils import amg
from tests.parity.oracle import official_module

official = official_module("utils.amg")

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)
masks = st.tuples(st.integers(0, 4), sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))
crops = st.tuples(*[st.integers(0, 30)] * 4).map(lambda c: [c[0], c[1], c[0] + c[2] + 1, c[1] + c[3] + 1])


def assert_equal(ours, theirs):
    """The same values of the same types, and of the same dtypes."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name in theirs:
            assert_equal(ours[name], theirs[name])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert ours == theirs


def functions_of(module):
    return {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }


def test_every_official_function_is_there_with_its_parameters():
    assert {*functions_of(official), "MaskData"} == set(amg.__all__)
    for name in functions_of(official):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (amg, official))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ], name


@given(masks)
def test_masks_become_the_official_runs_and_masks_again(pixels):
    tensor = torch.from_numpy(pixels)
    runs = amg.mask_to_rle_pytorch(tensor)
    assert_equal(runs, official.mask_to_rle_pytorch(tensor))
    for mask, rle in zip(pixels, runs, strict=True):
        assert_equal(amg.rle_to_mask(rle), official.rle_to_mask(rle))
        np.testing.assert_array_equal(amg.rle_to_mask(rle), mask)
        assert amg.rle_to_mask(rle).flags.f_contiguous
        assert_equal(amg.area_from_rle(rle), official.area_from_rle(rle))
        assert_equal(amg.coco_encode_rle(rle), official.coco_encode_rle(rle))


@given(masks)
def test_boxes_around_masks_are_the_official_ones(pixels):
    tensor = torch.from_numpy(pixels)
    for shaped in (tensor, tensor[None], *tensor):
        assert_equal(amg.batched_mask_to_box(shaped), official.batched_mask_to_box(shaped))


@given(seeds, st.tuples(st.integers(0, 3), sides, sides), st.floats(-2, 2), st.floats(0, 2))
def test_stability_scores_are_the_official_ones(seed, shape, threshold, offset):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32))
    assert_equal(
        amg.calculate_stability_score(logits, threshold, offset),
        official.calculate_stability_score(logits, threshold, offset),
    )


@given(masks, st.one_of(st.integers(0, 60), st.floats(0, 60)), st.sampled_from(["holes", "islands"]))
def test_small_regions_go_as_officially(pixels, area_thresh, mode):
    for mask in pixels:
        arguments = (mask, area_thresh, mode)
        assert_equal(amg.remove_small_regions(*arguments), official.remove_small_regions(*arguments))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
@given(masks, st.integers(0, 60), st.sampled_from(["holes", "islands"]))
def test_small_regions_of_integer_masks_go_as_officially(dtype, pixels, area_thresh, mode):
    for mask in pixels:
        arguments = (mask.astype(dtype), area_thresh, mode)
        assert_equal(amg.remove_small_regions(*arguments), official.remove_small_regions(*arguments))


def test_any_integer_but_0_is_a_pixel_of_the_mask():
    mask = np.zeros((20, 20), np.int32)
    mask[3:9, 3:9] = [1, 2, 255, 256, -1, 7]
    mask[5, 5], mask[15, 15] = 0, 300
    for mode, num_pixels in (("holes", 37), ("islands", 35)):
        repaired, changed = amg.remove_small_regions(mask, 4, mode)
        assert (repaired.dtype, int(repaired.sum()), changed) == (bool, num_pixels, True)


def test_float_masks_are_refused_as_officially():
    mask = np.ones((3, 3), np.float32)
    for module in (amg, official):
        with pytest.raises(TypeError):
            module.remove_small_regions(mask, 1, "holes")


@given(st.integers(1, 40), st.integers(0, 3), st.integers(1, 3))
def test_grids_are_the_official_ones(num_points, num_layers, scale):
    assert_equal(amg.build_point_grid(num_points), official.build_point_grid(num_points))
    if num_points // scale**num_layers:
        arguments = (num_points, num_layers, scale)
        assert_equal(amg.build_all_layer_point_grids(*arguments), official.build_all_layer_point_grids(*arguments))


@given(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), st.integers(0, 4), st.floats(0, 0.99))
def test_crops_are_the_official_ones_of_the_smallest_images_too(size, num_layers, overlap_ratio):
    arguments = (size, num_layers, overlap_ratio)
    assert_equal(amg.generate_crop_boxes(*arguments), official.generate_crop_boxes(*arguments))


@given(seeds, st.integers(0, 5), crops, st.sampled_from([torch.int64, torch.float32, torch.float64, torch.int32]))
def test_frames_change_as_officially(seed, count, crop, dtype):
    values = torch.from_numpy(np.random.default_rng(seed).integers(0, 100, (count, 4))).to(dtype)
    for boxes in (values, values[:, None]):
        assert_equal(amg.uncrop_boxes_xyxy(boxes, crop), official.uncrop_boxes_xyxy(boxes, crop))
        assert_equal(amg.uncrop_points(boxes[..., :2], crop), official.uncrop_points(boxes[..., :2], crop))
    x0, y0, x1, y1 = crop
    for height, width in ((y1 + 3, x1 + 5), (y1, x1), (y1 - y0, x1 - x0)):
        pixels = torch.ones(count, y1 - y0, x1 - x0, dtype=torch.bool)
        where = crop if (height, width) != (y1 - y0, x1 - x0) else [0, 0, width, height]
        arguments = (pixels, where, height, width)
        assert_equal(amg.uncrop_masks(*arguments), official.uncrop_masks(*arguments))


@given(seeds, st.integers(0, 5), crops, st.floats(0, 30))
def test_boxes_near_an_edge_are_the_official_ones(seed, count, crop, atol):
    boxes = torch.from_numpy(np.random.default_rng(seed).integers(0, 60, (count, 4)))
    image = [0, 0, crop[2] + 9, crop[3] + 25]
    assert_equal(amg.is_box_near_crop_edge(boxes, crop, image), official.is_box_near_crop_edge(boxes, crop, image))
    ours, theirs = (module.is_box_near_crop_edge(boxes, crop, image, atol=atol) for module in (amg, official))
    assert_equal(ours, theirs)


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_a_box_becomes_width_and_height_and_its_argument_stays(make):
    box = make([3, 4, 10, 20])
    assert_equal(amg.box_xyxy_to_xywh(box), official.box_xyxy_to_xywh(box))
    assert list(box) == [3, 4, 10, 20]


@given(st.integers(1, 7), st.integers(0, 20))
def test_batches_are_the_official_ones(size, count):
    arguments = (size, list(range(count)), np.arange(count))
    assert_equal(list(amg.batch_iterator(*arguments)), list(official.batch_iterator(*arguments)))


def data_of(module, count, first=0):
    numbers = np.arange(first, first + count)
    return module.MaskData(names=[f"mask {n}" for n in numbers], areas=numbers, boxes=torch.from_numpy(numbers * 2))


@settings(max_examples=50)
@given(seeds, st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_data_of_masks_is_filtered_and_joined_as_officially(seed, count, more, by_index):
    random = np.random.default_rng(seed)
    chosen = random.permutation(count + more)[: count // 2] if by_index else random.random(count + more) < 0.5
    keep = torch.from_numpy(chosen)
    found = []
    for module in (amg, official):
        data = module.MaskData()
        data.cat(data_of(module, count))
        data.cat(data_of(module, more, first=100))
        data["extra"] = list(range(count + more))
        data.filter(keep)
        data.to_numpy()
        del data["areas"]
        found.append(dict(data.items()))
    assert_equal(*found)


def test_wrong_input_is_refused_with_a_reason():
    with pytest.raises(ValueError, match="'holes' or 'islands', got 'hole'"):
        amg.remove_small_regions(np.zeros((3, 3), bool), 1, "hole")
    with pytest.raises(ValueError, match=r"lengths \[2, 3\]"):
        list(amg.batch_iterator(1, [1, 2], [1, 2, 3]))
    with pytest.raises(ValueError, match="add up to 2 x 3 pixels, got 5"):
        amg.rle_to_mask({"size": [2, 3], "counts": [5]})
    with pytest.raises(ValueError, match="compressed"):
        amg.rle_to_mask({"size": [2, 3], "counts": "06"})
    with pytest.raises(TypeError, match="got int for area"):
        amg.MaskData(area=3)
