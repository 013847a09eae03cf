import numpy as np
import pytest
import torch

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


def test_encode_in_bfloat16_stays_close(tiny_sam, inputs):
    rough, exact = encode(tiny_sam, inputs, "bf16"), encode(tiny_sam, inputs)
    assert rough.dtype == torch.bfloat16
    assert not torch.equal(rough.float(), exact)
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


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
