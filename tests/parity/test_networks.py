"""Our networks against the official ones on the same weights: image embeddings, mask logits, predicted IoU."""

from __future__ import annotations

import pytest
import torch
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import SamPromptEncoderConfig, SamVisionConfig

from sam_pipeline.model.huggingface import from_huggingface, to_huggingface
from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.networks.windows import window_partition, window_unpartition
from sam_pipeline.model.registry import build_sam
from sam_pipeline.model.sam import assemble_sam
from sam_pipeline.model.state_dicts import assign_state_dict, load_state_dict
from tests.parity.oracle import official_mobile_sam, official_module, official_sam, randomise, relative_difference

TOLERANCE = 1e-4

COORDS = torch.tensor([[[100.25, 700.5], [900.0, 33.3]], [[512.0, 512.0], [0.0, 1023.0]]], dtype=torch.float64)
LABELS = torch.tensor([[1, 0], [0, 1]])
BOXES = torch.tensor([[50.5, 60.25, 700.0, 800.75], [0.0, 0.0, 1024.0, 500.0]], dtype=torch.float64)
MASKS = torch.randn(2, 1, 256, 256, generator=torch.Generator().manual_seed(7))

PROMPTS = {
    "points": {"points": (COORDS, LABELS), "boxes": None, "masks": None},
    "padding label": {"points": (COORDS, torch.tensor([[1, -1], [-1, 0]])), "boxes": None, "masks": None},
    "boxes": {"points": None, "boxes": BOXES, "masks": None},
    "boxes and points": {"points": (COORDS, LABELS), "boxes": BOXES, "masks": None},
    "masks": {"points": None, "boxes": None, "masks": MASKS},
    "points and masks": {"points": (COORDS, LABELS), "boxes": None, "masks": MASKS},
    "none": {"points": None, "boxes": None, "masks": None},
}


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def images():
    """One image's worth of values as they are after normalisation, (1, 3, 1024, 1024)."""
    return torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(3))


def random_pair(model_type, seed=0):
    """Our model and the official one over the same random tensors: loading shares them, nothing is copied."""
    ours = build_sam(model_type)
    randomise(ours, seed)
    official = official_mobile_sam if model_type == "vit_t" else lambda tensors: official_sam(model_type, tensors)
    return ours, official(ours.state_dict())


def assert_same_embeddings(ours, theirs, images):
    embeddings = ours.image_encoder(images)
    difference = relative_difference(embeddings, theirs.image_encoder(images))
    print(f"image embeddings differ by {difference:.1e}")  # noqa: T201  shown by -s
    assert embeddings.std() > 0.05, "degenerate weights compare nothing"
    assert difference < TOLERANCE
    return embeddings


def decode(sam, embeddings, prompt, multimask_output):
    sparse, dense = sam.prompt_encoder(**prompt)
    return sam.mask_decoder(
        image_embeddings=embeddings,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )


def assert_same_masks(ours, theirs, embeddings):
    assert relative_difference(ours.prompt_encoder.get_dense_pe(), theirs.prompt_encoder.get_dense_pe()) < TOLERANCE
    for name, prompt in PROMPTS.items():
        for multimask_output in (True, False):
            masks, iou_predictions = decode(ours, embeddings, prompt, multimask_output)
            official_masks, official_iou_predictions = decode(theirs, embeddings, prompt, multimask_output)
            of_masks = relative_difference(masks, official_masks)
            of_iou = relative_difference(iou_predictions, official_iou_predictions)
            print(f"{name}, multimask {multimask_output}: masks differ by {of_masks:.1e}, IoU by {of_iou:.1e}")  # noqa: T201  shown by -s
            assert masks.std() > 0.05, "degenerate weights compare nothing"
            assert max(of_masks, of_iou) < TOLERANCE, name


@pytest.mark.parametrize(
    "model_type", ["vit_b", *(pytest.param(name, marks=pytest.mark.soak) for name in ("vit_l", "vit_h"))]
)
def test_random_vit_is_official(model_type, images):
    ours, theirs = random_pair(model_type)
    assert_same_masks(ours, theirs, assert_same_embeddings(ours, theirs, images))


@pytest.mark.soak  # the real weights are compared below
@pytest.mark.weights
def test_random_tiny_vit_is_mobile_sam(images):
    ours, theirs = random_pair("vit_t")
    assert_same_masks(ours, theirs, assert_same_embeddings(ours, theirs, images))


@pytest.mark.weights
def test_real_tiny_vit_is_mobile_sam(images, vit_t_checkpoint):
    ours = build_sam("vit_t", vit_t_checkpoint)
    theirs = official_mobile_sam(load_state_dict(vit_t_checkpoint))
    assert_same_masks(ours, theirs, assert_same_embeddings(ours, theirs, images))


@pytest.mark.parametrize("model_type", ["vit_b", pytest.param("vit_l", marks=pytest.mark.soak)])
def test_state_dicts_fit_both_ways(model_type):
    theirs = official_sam(model_type)
    ours = build_sam(model_type)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_pre_and_postprocessing_are_official():
    ours, theirs = random_pair("vit_b")
    image = torch.randint(0, 256, (3, 683, 1024), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    logits = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours.preprocess(image), theirs.preprocess(image))
    assert torch.equal(ours.preprocess(image[None].float()), theirs.preprocess(image[None].float()))
    sizes = {"input_size": (683, 1024), "original_size": (1333, 2000)}
    assert torch.equal(ours.postprocess_masks(logits, **sizes), theirs.postprocess_masks(logits, **sizes))


def test_window_padding_is_official():
    official = official_module("modeling.image_encoder")
    # Unlike in a full-size model, the axes differ, so that swapping them shows.
    tokens = torch.randn(2, 10, 7, 3, generator=torch.Generator().manual_seed(5))
    windows = window_partition(tokens, 4)
    official_windows, padded_hw = official.window_partition(tokens, 4)
    assert torch.equal(windows, official_windows)
    assert torch.equal(window_unpartition(windows, (10, 7)), tokens)
    assert padded_hw == (12, 8)


def small_pair():
    """A small model of ours and the same one as Hugging Face builds it, over the same random tensors."""
    encoder = ImageEncoderViT(img_size=128, embed_dim=48, depth=3, num_heads=4, window_size=3, global_attn_indexes=(1,))
    ours = assemble_sam(encoder).eval()
    randomise(ours)
    config = SamConfig(
        vision_config=SamVisionConfig(
            image_size=128,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            window_size=3,
            global_attn_indexes=[1],
        ),
        prompt_encoder_config=SamPromptEncoderConfig(image_size=128),
    )
    return ours, huggingface_model(ours, config)


def huggingface_model(ours, config):
    # Hugging Face runs the decoder's layer norms with eps 1e-6, the official with 1e-5: masks differ by about 1e-5.
    with torch.device("meta"):
        theirs = SamModel(config)
    theirs.load_state_dict(to_huggingface(ours.state_dict()), strict=True, assign=True)
    return theirs.eval()


def assert_same_as_huggingface(ours, theirs, images):
    size = images.shape[-1]
    coords, labels = COORDS.float() * size / 1024, LABELS
    boxes = BOXES.float() * size / 1024
    embeddings = ours.image_encoder(images)
    difference = relative_difference(embeddings, theirs.get_image_embeddings(images))
    print(f"image embeddings differ by {difference:.1e}")  # noqa: T201  shown by -s
    assert difference < TOLERANCE
    for multimask_output in (True, False):
        prompt = {"points": (coords, labels), "boxes": boxes, "masks": None}
        masks, iou_predictions = decode(ours, embeddings, prompt, multimask_output)
        output = theirs(
            image_embeddings=embeddings,
            input_points=coords[None],
            input_labels=labels[None],
            input_boxes=boxes[None],
            multimask_output=multimask_output,
        )
        of_masks = relative_difference(masks, output.pred_masks[0])
        of_iou = relative_difference(iou_predictions, output.iou_scores[0])
        print(f"multimask {multimask_output}: masks differ by {of_masks:.1e}, IoU by {of_iou:.1e}")  # noqa: T201  shown by -s
        assert max(of_masks, of_iou) < TOLERANCE


def test_small_vit_is_huggingface():
    ours, theirs = small_pair()
    assert_same_as_huggingface(ours, theirs, torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3)))


@pytest.mark.soak  # the small model above differs in size alone
def test_vit_b_is_huggingface(images):
    ours = build_sam("vit_b")
    randomise(ours)
    assert_same_as_huggingface(ours, huggingface_model(ours, SamConfig()), images)


def test_huggingface_names_convert_both_ways():
    ours, theirs = small_pair()
    converted = from_huggingface(theirs.state_dict())
    assert converted.keys() == ours.state_dict().keys()
    assert to_huggingface(converted).keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, converted[name]) for name, value in ours.state_dict().items())


def test_huggingface_folder_loads(tmp_path):
    ours, theirs = small_pair()
    theirs.save_pretrained(tmp_path)
    again = assemble_sam(
        ImageEncoderViT(img_size=128, embed_dim=48, depth=3, num_heads=4, window_size=3, global_attn_indexes=(1,))
    )
    assign_state_dict(again, load_state_dict(tmp_path), source=str(tmp_path))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ours.state_dict().items())
