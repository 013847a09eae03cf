import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.masks.filters import mask_boxes, near_crop_edge, stability_scores
from tests.parity.oracle import official_module


def smooth_logits(count, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((1, count, 5, 5), generator=generator) * 4
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.5, 0.25), (0.0, 0.0)])
def test_stability_scores_are_the_official_ones(threshold, offset):
    logits = smooth_logits(20, 83, 121)
    official = official_module("utils.amg").calculate_stability_score(logits, threshold, offset)
    ours = stability_scores(logits, threshold, offset)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, official)
    assert 0 < official.min() < 1 or offset == 0


def test_stability_of_an_empty_mask_passes_no_threshold():
    score = stability_scores(torch.full((1, 4, 4), -9.0), 0.0, 1.0)
    assert score.isnan().all()
    assert not (score >= 0.0).any()


def test_stability_survives_rows_wider_than_int16():
    logits = torch.full((1, 2, 40_000), 9.0)
    logits[:, 1, :10_000] = 0.5  # within the offset
    logits[:, 1, 10_000:] = -9.0
    assert stability_scores(logits, 0.0, 1.0).tolist() == pytest.approx([0.8])


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_mask_boxes_are_the_official_ones(seed, height, width, density):
    masks = torch.rand((4, height, width), generator=torch.Generator().manual_seed(seed)) < density
    ours = mask_boxes(masks)
    assert ours.dtype == torch.int64
    assert torch.equal(ours, official_module("utils.amg").batched_mask_to_box(masks))


def test_mask_boxes_are_inclusive_and_zero_when_empty():
    masks = torch.zeros((2, 6, 8), dtype=torch.bool)
    masks[0, 2:4, 3:8] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 7, 3], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


coordinate = st.integers(0, 120)


@given(
    boxes=st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=8),
    crop=st.sampled_from([(0, 0, 200, 150), (0, 0, 100, 90), (80, 0, 200, 90), (60, 30, 180, 140), (5, 5, 195, 145)]),
)
def test_near_crop_edge_is_the_official_test(boxes, crop):
    boxes = torch.tensor(boxes)
    official = official_module("utils.amg").is_box_near_crop_edge(boxes, list(crop), [0, 0, 200, 150])
    assert torch.equal(near_crop_edge(boxes, crop, (150, 200)), official)


def test_near_crop_edge_ends_after_twenty_pixels_and_spares_the_image_edge():
    boxes = torch.tensor([[20, 40, 60, 60], [21, 40, 60, 60], [40, 0, 60, 60]])
    crop = (50, 0, 150, 100)
    assert near_crop_edge(boxes, crop, (100, 200)).tolist() == [True, False, False]
