import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from sam_pipeline.masks.decoder import shared_decoder
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder

# Sums in another order; logits of the random model reach some tens.
LOGIT_TOLERANCE = 1e-4


@pytest.fixture
def image_embedding(tiny_sam):
    return torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(1))


def points(num_prompts, points_a_prompt=1, img_size=128):
    generator = torch.Generator().manual_seed(num_prompts)
    coords = torch.rand(num_prompts, points_a_prompt, 2, generator=generator, dtype=torch.float64) * img_size
    labels = torch.randint(0, 2, (num_prompts, points_a_prompt), generator=generator)
    return coords, labels


def decode(decoder, image_embedding, prompts, iou_filter, num_rows=8):
    with torch.inference_mode():
        return decoder.decode(decoder.share(image_embedding), prompts, iou_filter, num_rows)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("points_a_prompt", [1, 4, 30])
@pytest.mark.parametrize("num_prompts", [1, 7, 8, 21])
def test_masks_and_scores_are_those_of_the_plain_networks(
    tiny_sam, image_embedding, num_prompts, points_a_prompt, threads, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    prompts = points(num_prompts, points_a_prompt)
    expected = decode(PlainDecoder(tiny_sam), image_embedding, prompts, lambda iou: iou > 0)
    decoded = decode(SharedDecoder(tiny_sam), image_embedding, prompts, lambda iou: iou > 0)
    assert expected.keep_mask.any()
    torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-5, rtol=1e-5)
    assert torch.equal(decoded.keep_mask, expected.keep_mask)
    torch.testing.assert_close(decoded.low_res_masks, expected.low_res_masks, atol=LOGIT_TOLERANCE, rtol=1e-4)


def test_only_wanted_masks_and_rows_are_upscaled(tiny_sam, image_embedding):
    prompts = points(6)
    everything = decode(SharedDecoder(tiny_sam), image_embedding, prompts, torch.isfinite)
    second_only = torch.tensor([False, True, False])
    some = decode(SharedDecoder(tiny_sam), image_embedding, prompts, lambda iou: second_only.expand_as(iou), num_rows=5)
    assert some.low_res_masks.shape == (6, 20, 32)
    torch.testing.assert_close(some.low_res_masks, everything.low_res_masks[1::3, :20], atol=LOGIT_TOLERANCE, rtol=1e-4)


def test_no_prompts_give_nothing(tiny_sam, image_embedding):
    decoded = decode(SharedDecoder(tiny_sam), image_embedding, points(0), torch.isfinite)
    assert decoded.iou_predictions.shape == (0, 3)
    assert decoded.low_res_masks.shape == (0, 32, 32)


def test_one_thread_a_worker_and_as_many_as_before_elsewhere(tiny_sam, image_embedding):
    """torch.set_num_threads in one thread also sets the number of threads that start later."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decoder = SharedDecoder(tiny_sam)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
        seen = []
        decode(decoder, image_embedding, points(20), lambda iou: seen.append(torch.get_num_threads()) or iou > 0)
        assert seen == [1, 1, 1]
    finally:
        torch.set_num_threads(before)


def test_nothing_wanted_gives_scores_alone(tiny_sam, image_embedding):
    decoded = decode(SharedDecoder(tiny_sam), image_embedding, points(3), lambda iou: iou > 1e9)
    assert decoded.iou_predictions.shape == (3, 3)
    assert decoded.low_res_masks.shape == (0, 32, 32)


def test_attention_whose_shape_varies_is_not_planned_by_cudnn(tiny_sam, monkeypatch):
    allowed = []

    def attend(q, k, v):
        cuda = torch.backends.cuda
        allowed.append((cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()))
        return q

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    # A device without numbers stands for a GPU.
    decoder = SharedDecoder(copy.deepcopy(tiny_sam).to("meta"))
    shared = decoder.share(torch.empty(1, 256, 8, 8, device="meta")).tokens
    before = torch.backends.cuda.cudnn_sdp_enabled()
    decoder._token_side._attend_shared_keys(shared, torch.empty(5, 7, 128, device="meta"))
    assert allowed == [(False, True, True)]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize(
    ("capability", "triton", "missing"),
    [
        ((9, 0), True, None),
        ((8, 0), True, None),
        ((7, 5), True, "T4 has compute capability 7.5, less than 8.0"),
        ((9, 0), False, "Triton is not installed"),
    ],
)
def test_what_our_kernels_lack_on_a_gpu_is_named(monkeypatch, capability, triton, missing):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    monkeypatch.setattr(shared_decoder, "find_spec", lambda name: "found" if triton else None)
    assert shared_decoder._missing_for_triton(torch.device("cuda")) == missing
