import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from sam_pipeline.errors import CheckpointError
from sam_pipeline.model.state_dicts import assign_state_dict, load_state_dict


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(4, 3, generator=generator), "bias": torch.randn(4, generator=generator)}


def assert_equal(loaded, tensors):
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("name", ["new.pth", "new.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, tensors, name, zipped):
    torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_equal(load_state_dict(tmp_path / name), tensors)


def test_safetensors(tmp_path, tensors):
    safetensors.torch.save_file(tensors, tmp_path / "own.safetensors")
    assert_equal(load_state_dict(str(tmp_path / "own.safetensors")), tensors)


def test_half_precision_becomes_single_and_counts_stay(tmp_path):
    torch.save({"weight": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(7)}, tmp_path / "own.pth")
    loaded = load_state_dict(tmp_path / "own.pth")
    assert loaded["weight"].dtype == torch.float32
    assert loaded["count"].dtype == torch.int64


def test_pickle_with_code_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"
    torch.save({"weight": Bomb(ran)}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(ran), protocol=2))
    for name in ("bomb.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="holds code or objects"):
            load_state_dict(tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["own.pth", "own.pt", "own.safetensors"])
@pytest.mark.parametrize("damage", ["half", "noise", "empty"])
def test_corrupt_file_is_one_line(tmp_path, tensors, name, damage):
    path = tmp_path / name
    if name.endswith("safetensors"):
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "noise": b"\x00noise" * 50, "empty": b""}[damage])
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_formats_are_refused(tmp_path, tensors):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(
        CheckpointError, match=r"must be \.pth, \.pt, \.safetensors or a Hugging Face folder, got .*onnx"
    ):
        load_state_dict(tmp_path / "model.onnx")
    torch.save({"model": tensors}, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError, match="not a state dict"):
        load_state_dict(tmp_path / "nested.pth")


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint not found: .*absent\.pth"):
        load_state_dict(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match=r"checkpoint not found: .*model\.safetensors"):
        load_state_dict(tmp_path)


def test_assign_shares_memory(tensors):
    with torch.device("meta"):
        layer = nn.Linear(3, 4)
    assign_state_dict(layer, tensors, source="test")
    assert layer.weight.data_ptr() == tensors["weight"].data_ptr()


def test_assign_names_every_kind_of_difference(tensors):
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 6))
    state_dict = layers.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        del state_dict[name]
    state_dict["2.weight"] = torch.zeros(1)
    state_dict["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        assign_state_dict(layers, state_dict, source="own.pth as vit_b")
    assert str(caught.value) == (
        "own.pth as vit_b: not the weights of this architecture (4 missing: 0.weight, 0.bias, 1.weight, …; "
        "1 unexpected: extra; 1 of another shape: 2.weight)"
    )


def test_compressed_file_is_not_unpacked(tmp_path, tensors):
    torch.save(tensors, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(tmp_path / "own.pth", "w") as compressed:
        for entry in stored.infolist():
            compressed.writestr(entry.filename, stored.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"own\.pth is compressed, which no torch checkpoint is"):
        load_state_dict(tmp_path / "own.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensor_larger_than_its_file_is_refused_before_it_takes_memory(tmp_path, zipped):
    huge = torch.ones(1, dtype=torch.bfloat16).expand(2**50)  # as float32 four pebibytes
    torch.save({"weight": huge}, tmp_path / "own.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"own\.pth names tensors of 2251799813685248 bytes, more than it can hold"
    ):
        load_state_dict(tmp_path / "own.pth")


def test_tied_parameters_are_no_inflation(tmp_path):
    weight = torch.ones(1000, 1000)
    torch.save({"weight": weight, "tied": weight}, tmp_path / "own.pth")
    assert load_state_dict(tmp_path / "own.pth").keys() == {"weight", "tied"}
