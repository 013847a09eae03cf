import copy

import numpy as np
import pytest
import torch

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import prediction
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.resize import resize_image
from sam_pipeline.masks.prediction import decode_prompts, encode, exact_float32


@pytest.fixture
def inputs(picture):
    return [resize_image(picture(90, 140, seed=1), 128), resize_image(picture(140, 70, seed=2), 128)]


def test_encode_embeds_images_of_different_shapes_in_one_batch(tiny_sam, inputs):
    batch = encode(tiny_sam, inputs)
    assert batch.shape == (2, 256, 8, 8)
    assert batch.dtype == torch.float32
    alone = torch.cat([encode(tiny_sam, [image]) for image in inputs])
    # Of values up to 4: products of another size are summed in another order, which differs from CPU to CPU.
    torch.testing.assert_close(batch, alone, rtol=0, atol=3e-5)


def test_encode_normalises_and_pads_as_the_official_predictor(tiny_sam, inputs):
    image = torch.tensor(inputs[0]).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = tiny_sam.image_encoder(tiny_sam.preprocess(image))
    assert torch.equal(encode(tiny_sam, inputs[:1]), expected)


@pytest.mark.parametrize(
    ("precision", "dtype", "error"), [("fp16", torch.float16, 0.00625), ("bf16", torch.bfloat16, 0.05)]
)
def test_encode_in_half_precision_stays_close(tiny_sam, inputs, precision, dtype, error):
    rough, exact = encode(tiny_sam, inputs, precision), encode(tiny_sam, inputs)
    assert rough.dtype == dtype
    assert not torch.equal(rough.float(), exact)
    assert (rough.float() - exact).abs().mean() < error * exact.abs().mean()


def neck_outputs(sam, images):
    """The largest number after the first convolution of the neck, whose norm takes every scale out again, by image."""
    seen = []
    hook = sam.image_encoder.neck[0].register_forward_hook(lambda *call: seen.append(call[-1].abs().max().item()))
    for image in images:
        encode(sam, [image])
    hook.remove()
    return seen


@pytest.fixture
def overflowing(tiny_sam, inputs):
    """A model with the embeddings of tiny_sam in float32, and images of which it has float16 overflow for the first."""
    sam = copy.deepcopy(tiny_sam)
    (larger, image), (smaller, other) = sorted(zip(neck_outputs(sam, inputs), inputs, strict=True), reverse=True)
    assert larger > 1.02 * smaller
    with torch.no_grad():
        sam.image_encoder.neck[0].weight.mul_(65504 / (larger * smaller) ** 0.5)
    return sam, [image, other]


def test_an_image_that_exceeds_the_range_of_float16_is_encoded_in_float32(overflowing, caplog):
    sam, images = overflowing
    prediction._warn_of_overflow.cache_clear()
    exact, ours = torch.cat([encode(sam, [image]) for image in images]), encode(sam, images, "fp16")
    assert torch.equal(ours[0], exact[0].half())
    assert 0 < (ours[1].float() - exact[1]).abs().mean() < 0.00625 * exact[1].abs().mean()
    assert "range of fp16" in caplog.text
    encode(sam, images, "fp16")
    assert len(caplog.records) == 1


def test_masks_of_an_image_that_exceeds_the_range_of_float16_are_those_of_its_float32_embedding(overflowing):
    sam, (image, _) = overflowing
    config = MaskConfig(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    generators = [MaskGenerator(sam, config, precision) for precision in ("fp16", "fp32")]
    ours, expected = (generator.generate(image) for generator in generators)
    assert len(ours) == len(expected) > 0
    for mask, other in zip(ours, expected, strict=True):
        assert mask.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-3)


def test_encode_reads_memory_that_it_must_not_write(tiny_sam, inputs):
    shared = inputs[0].copy()
    shared.flags.writeable = False
    assert torch.equal(encode(tiny_sam, [shared]), encode(tiny_sam, inputs[:1]))


@pytest.mark.parametrize(("images", "message"), [([], "at least one"), ([np.zeros((129, 9, 3), np.uint8)], "128")])
def test_encode_refuses_what_is_no_input(tiny_sam, images, message):
    with pytest.raises(ValueError, match=message):
        encode(tiny_sam, images)


def test_masks_are_decoded_in_float32_whatever_the_embeddings(tiny_sam, inputs):
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0]])
    for masks in decode_prompts(tiny_sam, encode(tiny_sam, inputs[:1], "bf16"), boxes=boxes):
        assert masks.dtype == torch.float32


@pytest.fixture
def tf32():
    """TF32 on for products and convolutions, as a user may have set it."""
    torch.set_float32_matmul_precision("high")
    yield torch.backends.cuda.matmul, torch.backends.cudnn.conv
    torch.set_float32_matmul_precision("highest")


def test_exact_float32_turns_tf32_off_and_back(tf32):
    matmul, conv = tf32
    with exact_float32():
        assert matmul.fp32_precision == conv.fp32_precision == "ieee"
    assert matmul.fp32_precision == conv.fp32_precision == "tf32"


def test_exact_float32_has_half_types_summed_in_float32():
    matmul, names = torch.backends.cuda.matmul, prediction._SUMS_IN_HALF
    before = [getattr(matmul, name) for name in names]
    with exact_float32():
        assert not any(getattr(matmul, name) for name in names)
    assert [getattr(matmul, name) for name in names] == before


def test_exact_float32_turns_autocast_off_and_back():
    a, b = torch.rand(2, 3), torch.rand(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with exact_float32():
            assert (a @ b).dtype == torch.float32
        assert (a @ b).dtype == torch.bfloat16


def test_networks_run_in_exact_float32(tiny_sam, inputs, tf32):
    seen = []
    hooks = [
        network.register_forward_hook(lambda *_: seen.append([backend.fp32_precision for backend in tf32]))
        for network in (tiny_sam.image_encoder, tiny_sam.mask_decoder)
    ]
    decode_prompts(tiny_sam, encode(tiny_sam, inputs[:1]), boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]]))
    for hook in hooks:
        hook.remove()
    assert seen == [["ieee", "ieee"]] * 2
