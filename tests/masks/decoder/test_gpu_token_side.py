"""The kernels by Triton's interpreter, against torch."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from benchmarks.measured.detect_launches import totals, trace_detect
from sam_pipeline.masks.decoder.gpu import token_side as triton_token_side
from sam_pipeline.masks.decoder.gpu.token_side import TritonTokenSide
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.decoder.token_side import TokenSide, has_heads_alike
from tests.launches import watch_launches
from tests.small_sams import make_tiny_sam

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU tests/gpu runs the kernels, compiled")


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def points(num_prompts, num_points, coords_type, labels_type):
    coords = (normal(num_prompts, num_points, 2) * 40 + 60).to(coords_type)
    labels = torch.tensor([1, 0, 1, -1, 0, 2, 1])[:num_points].expand(num_prompts, -1)
    return coords, labels.to(labels_type)


@interpreted
@torch.inference_mode()
@pytest.mark.parametrize(
    ("given", "num_boxes"),
    [
        ((1, 1, torch.float64, torch.int32), 0),
        ((3, 7, torch.float32, torch.float32), 0),
        ((3, 7, torch.float32, torch.int64), 3),
        ((2, 2, torch.float64, torch.bool), 2),
        ((2, 0, torch.float32, torch.int64), 2),
        ((0, 1, torch.float64, torch.int64), 0),
        (None, 2),
        (None, 0),
    ],
)
def test_prompts_are_embedded_as_by_the_prompt_encoder(tiny_sam, given, num_boxes):
    prompts = points(*given) if given else None
    boxes = normal(num_boxes, 4) * 40 + 60 if num_boxes else None
    ours, plain = (side(tiny_sam, torch.float32).embed(prompts, boxes) for side in (TritonTokenSide, TokenSide))
    torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-5)  # a coordinate's last bit is 1e-6 in an angle


@pytest.mark.parametrize(("num_points", "num_labels", "num_boxes"), [(3, 3, 1), (3, 2, 0), (1, 1, 3)])
def test_prompts_of_different_numbers_are_refused(tiny_sam, num_points, num_labels, num_boxes):
    prompts = normal(num_points, 1, 2), torch.ones(num_labels, 1)
    with pytest.raises(ValueError, match=r"points and boxes must be|points must be"):
        TritonTokenSide(tiny_sam, torch.float32).embed(prompts, normal(num_boxes, 4) if num_boxes else None)


@interpreted
@torch.inference_mode()
@pytest.mark.parametrize("num_prompts", [1, 33])
@pytest.mark.parametrize("multimask_output", [True, False])
def test_heads_are_those_of_the_networks(tiny_sam, num_prompts, multimask_output):
    read = TokenSide(tiny_sam, torch.float32).read(multimask_output)
    tokens = normal(num_prompts, 7, 256)[:, read.tokens].contiguous()
    ours, plain = (side(tiny_sam, torch.float32)._heads(tokens, read) for side in (TritonTokenSide, TokenSide))
    for each, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-4)


@interpreted
@torch.inference_mode()
@pytest.mark.parametrize(("with_update", "with_pe"), [(False, True), (True, True), (True, False)])
def test_sums_are_normalised_as_by_torch(tiny_sam, with_update, with_pe):
    wide, update, pe = (normal(n, 5 + n, 256)[:3] * 3 for n in (3, 4, 5))
    tokens, update, pe = wide[:, 2:7], update[:, :5].contiguous(), pe[:, :5].contiguous()
    before = tokens.clone()
    norm = tiny_sam.mask_decoder.transformer.norm_final_attn
    given = tokens, update if with_update else None, norm, pe if with_pe else None
    ours, plain = (side(tiny_sam, torch.float32)._add_norm(*given) for side in (TritonTokenSide, TokenSide))
    for each, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(each, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(tokens, before)


@interpreted
@torch.inference_mode()
@pytest.mark.parametrize("multimask_output", [True, False])
def test_masks_are_those_of_the_plain_networks(tiny_sam, multimask_output):
    decoder = SharedDecoder(tiny_sam)
    decoder._token_side = TritonTokenSide(tiny_sam, torch.float32)
    embedding, prompts = normal(1, 256, 8, 8), points(3, 1, torch.float64, torch.int32)
    ours, plain = (
        each.decode(each.share(embedding), prompts, torch.isfinite, 8, multimask_output=multimask_output)
        for each in (decoder, PlainDecoder(tiny_sam))
    )
    torch.testing.assert_close(ours.iou_predictions, plain.iou_predictions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.low_res_masks, plain.low_res_masks, atol=1e-4, rtol=1e-4)


@interpreted
@torch.inference_mode()
def test_kernels_are_launched_on_the_device_of_the_tokens(tiny_sam, monkeypatch):
    launched = watch_launches(monkeypatch, triton_token_side, "embed_prompts", "add_norm", "head_layer")
    side = TritonTokenSide(tiny_sam, torch.float32)
    read = side.read(multimask_output=True)
    pe = side.embed(points(1, 1, torch.float64, torch.int32), None)
    side._add_norm(pe, None, tiny_sam.mask_decoder.transformer.norm_final_attn, None)
    side._heads(pe[:, read.tokens].contiguous(), read)
    assert launched == [torch.device("cpu")] * 5


def test_another_iou_head_is_noticed():
    sam = make_tiny_sam()
    assert has_heads_alike(sam)
    sam.mask_decoder.iou_prediction_head.layers[0] = torch.nn.Linear(256, 8)
    sam.mask_decoder.iou_prediction_head.layers[1] = torch.nn.Linear(8, 256)
    assert not has_heads_alike(sam)


def test_an_image_takes_few_launches_and_waits():
    parts = {site.part: site for site in totals(trace_detect().sites)}
    assert parts["all"].launches <= 60  # 223 by the modules, one by one
    assert parts["tokens"].launches <= 33
    assert parts["tokens"].waits == parts["image once"].waits == parts["generator"].waits == 0
    # How many masks are kept, what is measured of them, how many edges the survivors have.
    assert parts["all"].waits <= 3
