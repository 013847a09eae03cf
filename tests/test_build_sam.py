import pytest
import torch

from sam_pipeline import build_sam_vit_b, build_sam_vit_l, build_sam_vit_t, sam_model_registry
from sam_pipeline.errors import CheckpointError
from tests.parity.oracle import official_module


def test_models_without_a_checkpoint_have_the_official_parameters():
    official = official_module("build_sam").sam_model_registry
    with torch.device("meta"):
        for name, build in official.items():
            ours, theirs = sam_model_registry[name](), build()
            assert {key: value.shape for key, value in ours.state_dict().items()} == {
                key: value.shape for key, value in theirs.state_dict().items()
            }
            assert not ours.training
    assert list(sam_model_registry) == [*official, "vit_t"]


def test_a_path_loads_by_position_and_by_name(tmp_path):
    sam = build_sam_vit_t()
    path = tmp_path / "weights.pth"
    torch.save(sam.state_dict(), path)
    for loaded in (build_sam_vit_t(path), build_sam_vit_t(checkpoint=str(path))):
        assert all(torch.equal(value, sam.state_dict()[name]) for name, value in loaded.state_dict().items())
        assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_script_may_save_to_the_file_that_it_loaded(tmp_path):
    """Weights mapped from that file would end the process."""
    path = tmp_path / "weights.pth"
    torch.save(build_sam_vit_t().state_dict(), path)
    sam = build_sam_vit_t(checkpoint=path)
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight.add_(1)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    path.write_bytes(b"")
    torch.save(sam.state_dict(), path)
    again = build_sam_vit_t(checkpoint=path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in before.items())


@pytest.mark.parametrize("build", [build_sam_vit_b, build_sam_vit_l])
def test_a_checkpoint_that_is_not_there_is_named(build, tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint not found: .*/none\.pth"):
        build(checkpoint=tmp_path / "none.pth")
