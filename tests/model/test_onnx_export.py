import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sam_pipeline.errors import ConfigError, OutputError, RunFailedError
from sam_pipeline.model import onnx_export
from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.onnx_export import check_request, difference, example_inputs, export_onnx, quantize_onnx
from sam_pipeline.model.onnx_model import SamOnnxModel
from sam_pipeline.model.sam import assemble_sam
from tests.random_weights import randomise


@pytest.fixture(scope="module")
def sam():
    """A whole decoder behind an encoder of no size."""
    sam = assemble_sam(ImageEncoderViT(embed_dim=16, depth=1, num_heads=1, global_attn_indexes=()))
    randomise(sam)
    return sam.eval()


@pytest.fixture(scope="module")
def exported(sam, tmp_path_factory):
    """A model, and its file."""
    model = SamOnnxModel(sam, return_single_mask=True)
    path = tmp_path_factory.mktemp("exported") / "decoder.onnx"
    export_onnx(model, path)
    return model, path


def run(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def test_the_file_is_alone_and_gives_the_masks_of_torch(exported):
    model, path = exported
    assert [other.name for other in path.parent.iterdir()] == ["decoder.onnx"]
    for num_points in (1, 4):
        assert difference(model, path, num_points=num_points) < 1e-4


def test_metrics_have_names_of_their_own(sam, tmp_path):
    export_onnx(SamOnnxModel(sam, return_single_mask=False, return_extra_metrics=True), tmp_path / "m.onnx")
    names = [value.name for value in onnx.load(str(tmp_path / "m.onnx")).graph.output]
    assert names == ["masks", "iou_predictions", "stability_scores", "areas", "low_res_masks"]
    shapes = [value.shape for value in run(tmp_path / "m.onnx", example_inputs(SamOnnxModel(sam, False)))]
    assert shapes == [(1, 4, 1500, 2250), (1, 4), (1, 4), (1, 4), (1, 4, 256, 256)]


def test_gelu_by_tanh_changes_the_file_and_not_the_model(exported, tmp_path):
    model, path = exported
    inputs = example_inputs(model)
    before = model(*inputs.values())
    export_onnx(model, tmp_path / "tanh.onnx", gelu_approximate=True)
    assert "Erf" in {node.op_type for node in onnx.load(str(path)).graph.node}
    assert "Erf" not in {node.op_type for node in onnx.load(str(tmp_path / "tanh.onnx")).graph.node}
    assert all(map(torch.equal, before, model(*inputs.values())))
    assert not np.array_equal(run(tmp_path / "tanh.onnx", inputs)[2], run(path, inputs)[2])


def test_quantized_weights_are_a_third_of_the_size_and_give_similar_masks(exported, tmp_path, caplog):
    model, path = exported
    quantize_onnx(path, tmp_path / "int8.onnx")
    assert caplog.records == []
    assert (tmp_path / "int8.onnx").stat().st_size < path.stat().st_size / 3
    inputs = example_inputs(model)
    (masks, *_), (quantized, *_) = run(path, inputs), run(tmp_path / "int8.onnx", inputs)
    assert np.mean((masks > 0) == (quantized > 0)) > 0.9


def test_a_file_that_gives_other_masks_is_not_written(sam, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "difference", lambda *_: float("nan"))
    (tmp_path / "m.onnx").write_text("what was there")
    with pytest.raises(RunFailedError, match=r"m\.onnx is not written: masks of ONNX Runtime differ"):
        export_onnx(SamOnnxModel(sam, True), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "what was there"


def test_nothing_that_is_there_is_replaced_unless_it_is_an_export(exported, tmp_path):
    _, path = exported
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link.onnx").symlink_to(path)
    (tmp_path / "folder.onnx").mkdir()
    check_request(tmp_path / "new.onnx", tmp_path / "int8.onnx")
    with pytest.raises(OutputError, match="exists already; --overwrite replaces"):
        check_request(path)
    check_request(path, overwrite=True)
    for name in ("notes.txt", "link.onnx", "folder.onnx"):
        with pytest.raises(OutputError, match="exists already"):
            check_request(tmp_path / name)
        with pytest.raises(OutputError, match="is not an exported mask decoder"):
            check_request(tmp_path / "new.onnx", tmp_path / name, overwrite=True)
    with pytest.raises(OutputError, match="there is no folder"):
        check_request(tmp_path / "none" / "new.onnx")


def test_other_models_are_not_replaced(tmp_path):
    graph = onnx.helper.make_graph([], "other", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "other.onnx"))
    with pytest.raises(OutputError, match="is not an exported mask decoder"):
        check_request(tmp_path / "other.onnx", overwrite=True)


@pytest.mark.parametrize("opset", [-1, 10, 21])
def test_an_opset_that_cannot_be_written_is_refused(tmp_path, opset):
    with pytest.raises(ConfigError, match=f"opset must be 11 to 20, got {opset}"):
        check_request(tmp_path / "m.onnx", opset=opset)


def test_both_files_cannot_be_one(tmp_path):
    with pytest.raises(ConfigError, match="must be two files"):
        check_request(tmp_path / "m.onnx", tmp_path / "." / "m.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_not_installed_is_named(tmp_path, package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from pathlib import Path\n"
        "from sam_pipeline.model.onnx_export import check_request\n"
        f"check_request(Path({str(tmp_path / 'a')!r}), Path({str(tmp_path / 'b')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"this needs the package {package}: pip install 'sam-pipeline[onnx]'" in done.stderr
