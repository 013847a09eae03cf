import subprocess
import sys

import pytest
import torch

from sam_pipeline.errors import CheckpointError, ConfigError
from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.networks.tiny_vit import TinyViT
from sam_pipeline.model.registry import build_sam, sam_model_registry
from sam_pipeline.model.sam import assemble_sam


def test_keys_are_the_official_ones():
    assert list(sam_model_registry) == ["default", "vit_h", "vit_l", "vit_b", "vit_t"]


@pytest.mark.parametrize(("model_type", "millions"), [("default", 641), ("vit_l", 312), ("vit_b", 94), ("vit_t", 10)])
def test_sizes(model_type, millions):
    with torch.device("meta"):
        sam = sam_model_registry[model_type]()
    assert round(sum(parameter.numel() for parameter in sam.parameters()) / 1e6) == millions
    assert not any(module.training for module in sam.modules())


def test_unknown_model_type():
    with pytest.raises(ConfigError, match="got 'vit_x'"):
        build_sam("vit_x")


@pytest.mark.weights
def test_checkpoint_is_loaded_and_nothing_is_left_on_the_meta_device(vit_t_checkpoint):
    sam = sam_model_registry["vit_t"](checkpoint=vit_t_checkpoint)
    official = torch.load(vit_t_checkpoint, weights_only=True)
    assert all(torch.equal(value, official[name]) for name, value in sam.state_dict().items())
    assert {tensor.device.type for tensor in [*sam.parameters(), *sam.buffers()]} == {"cpu"}
    assert sam.device.type == "cpu"
    assert not any(module.training for module in sam.modules())


@pytest.mark.weights
def test_building_around_a_checkpoint_does_not_import_the_compiler(vit_t_checkpoint):
    """It takes 2 s and 120 MB of every actor; a process of its own, since other tests import it."""
    program = f"""
import sys
from sam_pipeline.model.registry import _image_encoder, build_sam
build_sam("vit_t", {str(vit_t_checkpoint)!r})
print([name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_checkpoint_of_another_architecture(vit_t_checkpoint):
    with pytest.raises(
        CheckpointError, match=r"as vit_b: not the weights of this architecture \(\d+ missing: .*; \d+ un"
    ):
        build_sam("vit_b", vit_t_checkpoint)


def test_tiny_models_for_tests():
    encoder = ImageEncoderViT(img_size=64, embed_dim=8, depth=2, num_heads=2, window_size=3, global_attn_indexes=(1,))
    for sam in (assemble_sam(encoder), assemble_sam(TinyViT(img_size=64, embed_dims=(8, 8, 10, 20)))):
        with torch.inference_mode():
            embeddings = sam.eval().image_encoder(sam.preprocess(torch.zeros(2, 3, 40, 64, dtype=torch.uint8)))
        assert embeddings.shape == (2, 256, 4, 4)
