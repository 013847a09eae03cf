"""The kernel by Triton's interpreter: small masks, for time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import generator, prediction, prompted
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.full_resolution import mask_kernels, triton_masks, upscaling
from sam_pipeline.masks.full_resolution.composed_resize import composed_axis
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt
from sam_pipeline.masks.runs.runs import Runs
from tests.launches import watch_launches

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
    rows, columns = (composed_axis(SIDE, input_size[axis], size[axis]) for axis in (0, 1))
    counts = check_measures(masks()[:, : input_size[0] // 4 + 2].contiguous(), rows, columns, monkeypatch)
    assert counts.any()


def check_measures(low_res_masks, rows, columns, monkeypatch, offset=1.0):
    """Compare with the CPU's; returns counts, (L, 2). Tiles and lanes are few, so that small masks have several."""
    monkeypatch.setattr(triton_masks, "_CELLS", (4, 16))
    monkeypatch.setattr(triton_masks, "_LANES", 8)
    with np.errstate(invalid="ignore"):  # no number, times a weight
        ours = triton_masks.measure_masks(low_res_masks, rows, columns, 0.0, offset)
    theirs = mask_kernels.measure_masks(low_res_masks.numpy(), rows, columns, 0.0, offset)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    return ours[0]


@pytest.mark.parametrize("seed", range(6))
def test_masks_of_any_shape_are_measured_as_by_the_cpu(seed, monkeypatch):
    random = np.random.default_rng(seed)
    num_masks = (1, 2, 5)[seed % 3]
    height, width = ((random.integers(1, 48), 48), (48, random.integers(1, 48)))[seed % 2]  # landscape, portrait
    rows, columns = (composed_axis(SIDE, length, random.integers(1, 60)) for length in (height, width))
    coarse = torch.from_numpy(random.normal(0, 6, (num_masks, 1, 4, 4)).astype(np.float32))
    low_res_masks = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[:, 0]
    strange = torch.from_numpy(random.choice(np.float32([np.nan, np.inf, -np.inf, 1, -1, 0]), low_res_masks.shape))
    low_res_masks = torch.where(torch.from_numpy(random.random(low_res_masks.shape) < 0.02), strange, low_res_masks)
    check_measures(low_res_masks.contiguous(), rows, columns, monkeypatch, offset=float(random.choice([0, 0.3, 1])))


@pytest.mark.parametrize("num_mixed", [0, 1, 7, 8, 9, 15, 16, 17, 23, 24])
def test_any_number_of_cells_of_a_tile_may_be_mixed(num_mixed, monkeypatch):
    """Of a row of 24 cells in two tiles, of 16 and 8; pixels of eight cells are computed at a time."""
    low_res_masks = torch.full((1, 3, 26), 3.0)
    low_res_masks[:, :, :num_mixed] = 0.5  # above the threshold of the mask and the lower one
    rows, columns = composed_axis(26, 2, 5), composed_axis(26, 104, 90)
    assert (len(rows.groups), len(columns.groups)) == (2, 25)
    counts = check_measures(low_res_masks, rows, columns, monkeypatch)
    assert (counts[0, 0] < counts[0, 1]) == (num_mixed > 0)


@pytest.mark.parametrize(("value", "counted"), [(0.5, [0, 1]), (3.0, [1, 1]), (-3.0, [0, 0]), (1.0, [0, 1])])
def test_all_cells_may_be_mixed_or_none(value, counted, monkeypatch):
    rows, columns = composed_axis(SIDE, 48, 30), composed_axis(SIDE, 36, 21)
    counts = check_measures(torch.full((3, SIDE, SIDE), value), rows, columns, monkeypatch)
    assert counts.tolist() == [[30 * 21 * share for share in counted]] * 3


def test_no_masks_give_nothing():
    axis = composed_axis(SIDE, 48, 30)
    counts, boxes = triton_masks.measure_masks(torch.zeros(0, SIDE, SIDE), axis, axis, 0.0, 1.0)
    assert counts.shape == (0, 2)
    assert boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("input_size", "size", "threshold"),
    [
        ((36, 48), (15, 19), 0.0),
        ((48, 48), (5, 7), 0.0),
        ((2, 48), (1, 40), 0.0),
        ((48, 2), (40, 1), 1.0),
        ((1, 1), (1, 1), 1.0),
    ],
)
def test_edges_are_those_of_the_cpu_to_the_bit(input_size, size, threshold, monkeypatch):
    monkeypatch.setattr(triton_masks, "_COLUMNS", 8)
    low_res_masks = masks()[:, : input_size[0] // 4 + 3].contiguous()
    rows, columns = (composed_axis(SIDE, input_size[axis], size[axis]) for axis in (0, 1))
    with np.errstate(invalid="ignore"):  # no number, times a weight
        ours = triton_masks.mask_edges(low_res_masks, rows, columns, threshold)
    theirs = [mask_kernels.mask_edges(logits.numpy(), rows, columns, threshold) for logits in low_res_masks]
    assert any(len(edges) for edges in theirs)
    assert [edges.tolist() for edges in ours] == [edges.tolist() for edges in theirs]


@pytest.fixture
def runs_on_device(monkeypatch):
    """A function after which runs are found as on a GPU."""

    def switch():
        for module in (upscaling, generator, prompted):
            monkeypatch.setattr(module, "finds_runs", lambda device: True)

    return switch


class LateCopy:
    """An event before which the edges of runs are none, as before a copy from a GPU has come."""

    def __init__(self, masks):
        self.copies = [(mask.edges, mask.edges.copy()) for mask in masks]
        for edges, _ in self.copies:
            edges[:] = -1

    def synchronize(self):
        for edges, copied in self.copies:
            edges[:] = copied


def test_the_generator_finds_the_same_masks_and_leaves_no_logits(blob_sam, picture, runs_on_device):
    settings = MaskConfig(points_per_side=4, pred_iou_thresh=0.3)
    masks = MaskGenerator(blob_sam, settings, decoder=PlainDecoder(blob_sam))
    image = picture(40, 62)
    expected = masks.generate(image)
    runs_on_device()
    crops = prepare_crops(image, settings, blob_sam.image_encoder.img_size)
    detections = masks.detect(prediction.encode(masks.sam, crops, masks.precision), image.shape[:2])
    assert all(isinstance(mask, Runs) for crop in detections for mask in crop.found.masks)
    late = [replace(crop, pixels_copied=LateCopy(crop.found.masks)) for crop in detections]
    assert masks.finish(late) == expected != []


def test_prompts_get_the_same_masks(tiny_sam, runs_on_device, monkeypatch):
    monkeypatch.setattr(upscaling, "_MASKS_AT_ONCE", 2)
    masks = PromptedMaskGenerator(tiny_sam, SharedDecoder(tiny_sam))
    embedding = torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = [Prompt((2.0, 3.0, 20.0 + size, 25.0)) for size in range(3)]
    expected = masks.decode(embedding, (30, 40), prompts)
    runs_on_device()
    detections = masks.detect(embedding, (30, 40), prompts)
    late = replace(detections, pixels_copied=LateCopy(detections.masks))
    assert masks.finish(late) == expected != []


def test_kernels_are_launched_on_the_device_of_the_masks(monkeypatch):
    launched = watch_launches(monkeypatch, triton_masks, "_measure", "_edges")
    axis = composed_axis(SIDE, 48, 9)
    triton_masks.measure_masks(masks()[:1], axis, axis, 0.0, 1.0)
    triton_masks.mask_edges(masks()[:1], axis, axis, 0.0)
    assert launched == [torch.device("cpu")] * 3
