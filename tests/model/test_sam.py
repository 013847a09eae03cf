import pytest
import torch

from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.registry import assemble_sam


@pytest.fixture(scope="module")
def sam():
    encoder = ImageEncoderViT(img_size=64, embed_dim=8, depth=1, num_heads=2, window_size=3, global_attn_indexes=())
    return assemble_sam(encoder).eval()


def test_preprocess_normalises_then_pads_with_zeros(sam):
    image = torch.full((3, 40, 64), 255, dtype=torch.uint8)
    x = sam.preprocess(image)
    assert x.shape == (3, 64, 64)
    assert x.dtype == torch.float32
    assert torch.allclose(
        x[:, 0, 0], torch.tensor([(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375])
    )
    assert torch.equal(x[:, 40:], torch.zeros(3, 24, 64))
    assert torch.equal(sam.preprocess(image[None].float())[0], x)


def test_preprocess_refuses_larger_images(sam):
    with pytest.raises(ValueError, match="at most 64 pixels a side, got 65 x 10"):
        sam.preprocess(torch.zeros(3, 65, 10))


def test_postprocess_cuts_padding_off(sam):
    masks = torch.full((1, 1, 16, 16), -1.0)
    masks[..., :10, :] = 1.0
    # Rows 0 to 40 of 64 are image; the logits of the padding must not reach the result.
    upscaled = sam.postprocess_masks(masks, input_size=(36, 64), original_size=(360, 640))
    assert upscaled.shape == (1, 1, 360, 640)
    assert (upscaled == 1).all()


def test_fixed_values_are_official(sam):
    assert sam.mask_threshold == 0.0
    assert sam.image_format == "RGB"
    assert "pixel_mean" not in sam.state_dict()
