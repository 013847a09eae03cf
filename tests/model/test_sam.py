import pytest
import torch

from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.sam import Sam, assemble_sam
from tests.parity.oracle import official_module
from tests.small_sams import IMG_SIZE, make_tiny_sam


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


RECORDS = [
    {"image": (100, 128), "original_size": (200, 256), "point_coords": (2, 3, 2), "point_labels": (2, 3)},
    {"image": (128, 50), "original_size": (64, 25), "boxes": (3, 4)},
    {"image": (128, 128), "original_size": (300, 300), "boxes": (2, 4), "mask_inputs": (2, 1, 32, 32)},
]


def record_of(shapes, generator):
    h, w = shapes["image"]
    record = {
        "image": torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8),
        "original_size": shapes["original_size"],
    }
    for name in ("point_coords", "boxes", "mask_inputs"):
        if name in shapes:
            record[name] = torch.rand(shapes[name], generator=generator) * (1 if name == "mask_inputs" else 50)
    if "boxes" in record:
        record["boxes"] += torch.tensor([0, 0, 50, 40])
    if "point_labels" in shapes:
        record["point_labels"] = torch.randint(0, 2, shapes["point_labels"], generator=generator)
    return record


@pytest.mark.parametrize("multimask_output", [True, False])
def test_called_on_records_it_gives_the_official_masks(multimask_output):
    sam, generator = make_tiny_sam(), torch.Generator().manual_seed(0)
    records = [record_of(shapes, generator) for shapes in RECORDS]
    theirs = official_module("modeling").Sam.forward(sam, records, multimask_output)
    for ours in (sam(records, multimask_output), sam(batched_input=records, multimask_output=multimask_output)):
        assert len(ours) == len(theirs) == len(records)
        for one, other in zip(ours, theirs, strict=True):
            assert list(one) == list(other)
            for name in other:
                assert not one[name].requires_grad
                assert torch.equal(one[name], other[name]), name
    assert sam.image_encoder.img_size == IMG_SIZE


def test_other_means_and_deviations_are_those_of_preprocessing(sam):
    mean, std = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    other = Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, pixel_mean=mean, pixel_std=std)
    assert other.preprocess(torch.tensor([9.0, 12.0, 15.0]).view(3, 1, 1))[:, 0, 0].tolist() == [2.0, 2.0, 2.0]
