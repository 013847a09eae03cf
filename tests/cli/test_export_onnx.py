import re

import onnx
import pytest

from sam_pipeline.cli.commands import main

pytestmark = pytest.mark.weights


@pytest.fixture
def export_onnx(tmp_path, capsys):
    """Run the command; returns its exit code, what it printed, and what it said on standard error."""

    def run(*flags):
        with pytest.raises(SystemExit) as ended:
            main(["export-onnx", "--model-type", "vit_t", "--output", str(tmp_path / "decoder.onnx"), *map(str, flags)])
        return ended.value.code, *capsys.readouterr()

    return run


def test_every_flag_of_the_official_script_is_taken(export_onnx, tmp_path, vit_t_checkpoint):
    code, out, err = export_onnx(
        *("--checkpoint", vit_t_checkpoint, "--opset", 16, "--quantize-out", tmp_path / "int8.onnx"),
        *("--return-single-mask", "--gelu-approximate", "--use-stability-score", "--return-extra-metrics"),
    )
    assert (code, err) == (0, "")
    assert re.search(r"check +masks as torch's \(\de-\d+\)\n", out)
    assert "int8.onnx" in out
    model = onnx.load(str(tmp_path / "decoder.onnx"))
    assert model.opset_import[0].version == 16
    assert len(model.graph.output) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "int8.onnx"]
    code, out, err = export_onnx()
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: \S+/decoder\.onnx exists already; --overwrite [^\n]+\n", err)


def test_a_mistake_is_said_before_the_weights_are_read(export_onnx, tmp_path):
    code, out, err = export_onnx("--opset", 9, "--checkpoint", tmp_path / "none.pth")
    assert (code, out, err) == (2, "", "error: opset must be 11 to 20, got 9\n")
