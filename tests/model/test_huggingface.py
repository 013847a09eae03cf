import pytest
import torch

from sam_pipeline.model.huggingface import from_huggingface, is_huggingface, to_huggingface
from sam_pipeline.model.registry import build_sam

FREQUENCIES = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


@pytest.fixture(scope="module")
def official():
    with torch.device("meta"):
        return build_sam("vit_b").state_dict()


def test_round_trip_keeps_every_tensor(official):
    again = from_huggingface(to_huggingface(official))
    assert again.keys() == official.keys()
    assert all(again[name] is official[name] for name in official)


@pytest.mark.parametrize(
    ("name", "huggingface_name"),
    [
        ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
        ("image_encoder.blocks.11.norm1.bias", "vision_encoder.layers.11.layer_norm1.bias"),
        ("image_encoder.blocks.2.attn.rel_pos_h", "vision_encoder.layers.2.attn.rel_pos_h"),
        ("image_encoder.neck.3.weight", "vision_encoder.neck.layer_norm2.weight"),
        ("prompt_encoder.point_embeddings.3.weight", "prompt_encoder.point_embed.3.weight"),
        ("mask_decoder.transformer.layers.1.norm4.weight", "mask_decoder.transformer.layers.1.layer_norm4.weight"),
        (
            "mask_decoder.output_hypernetworks_mlps.3.layers.1.bias",
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.bias",
        ),
        ("mask_decoder.iou_prediction_head.layers.2.weight", "mask_decoder.iou_prediction_head.proj_out.weight"),
    ],
)
def test_names(official, name, huggingface_name):
    assert to_huggingface(official)[huggingface_name] is official[name]


@pytest.mark.parametrize(
    "left_out", ["shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"]
)
def test_one_copy_of_the_frequencies_is_enough(official, left_out):
    huggingface = to_huggingface(official)
    del huggingface[left_out]
    assert from_huggingface(huggingface)[FREQUENCIES] is official[FREQUENCIES]


def test_foreign_names_are_kept_for_the_loader_to_report():
    assert "mask_decoder.hq_token" in from_huggingface({"mask_decoder.hq_token": torch.zeros(1)})


def test_detection(official):
    assert is_huggingface(to_huggingface(official))
    assert not is_huggingface(official)
