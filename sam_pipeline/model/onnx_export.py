"""Writing the prompt encoder and mask decoder as an ONNX file, as scripts/export_onnx_model.py of segment_anything.

Needs the optional packages onnx and, for the check and for `quantize_onnx`, onnxruntime.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sam_pipeline.errors import ConfigError, OutputError, RunFailedError
from sam_pipeline.model.onnx_model import SamOnnxModel
from sam_pipeline.safety.clean_text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT_NAMES = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size")
"""Inputs of an exported model, in order; `SamOnnxModel.forward` says what each is."""

OPSETS = range(11, 21)
"""Versions of ONNX's operators that torch's exporter of traces can write."""

MAX_DIFFERENCE = 1e-4
"""Largest difference between ONNX Runtime and torch that the check lets pass, as a share of the largest value."""

_EXTRA_NAMES = ("stability_scores", "areas")


def check_request(output: Path, quantize_out: Path | None = None, *, opset: int = 17, overwrite: bool = False) -> None:
    """Check packages, opset and places of files before any weights are fetched.

    Args:
        output: file to write.
        quantize_out: a second file to write, by `quantize_onnx`.
        opset: as for `export_onnx`.
        overwrite: whether an earlier export may be replaced; any other file stays.

    Raises:
        ConfigError: a package is not installed, the opset is none of OPSETS, or both files are the same.
        OutputError: something is in the place of a file, or there is no folder for it.
    """
    _require("onnx")
    if opset not in OPSETS:
        raise ConfigError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    if quantize_out is None:
        return _check_place(output, overwrite)
    _require("onnxruntime")
    if output.resolve() == quantize_out.resolve():
        raise ConfigError(f"output and quantize_out must be two files, got {output} for both")
    for path in (output, quantize_out):
        _check_place(path, overwrite)


def export_onnx(
    onnx_model: SamOnnxModel, output: Path, *, opset: int = 17, gelu_approximate: bool = False
) -> float | None:
    """Write a model as an ONNX file that takes any number of points and any image size.

    The file is run with ONNX Runtime, if that is installed, before it takes the place of what is there.

    Its inputs are INPUT_NAMES. Its outputs are masks, iou_predictions and low_res_masks; with return_extra_metrics
    masks, iou_predictions, stability_scores, areas and low_res_masks.

    Args:
        onnx_model: on the CPU.
        output: file to write; it is there whole or not at all.
        opset: version of ONNX's operators, one of OPSETS.
        gelu_approximate: write GELU by tanh, for runtimes without erf.

    Returns:
        What `difference` finds.

    Raises:
        OutputError: the file cannot be written.
        RunFailedError: ONNX Runtime computes other masks than torch.
    """
    output_names = ["masks", "iou_predictions", "low_res_masks"]
    if onnx_model.return_extra_metrics:
        output_names[2:2] = _EXTRA_NAMES
    with _replacing(output) as scratch, _gelu(onnx_model, approximate=gelu_approximate), _quiet():
        # The other exporter, by torch.export, writes operators of version 18 and later only.
        torch.onnx.export(
            onnx_model,
            tuple(example_inputs(onnx_model).values()),
            str(scratch),
            dynamo=False,
            opset_version=opset,
            input_names=list(INPUT_NAMES),
            output_names=output_names,
            dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        )
        found = difference(onnx_model, scratch)
        if found is not None and not found <= MAX_DIFFERENCE:
            raise RunFailedError(
                f"{output} is not written: masks of ONNX Runtime differ from torch's by {found:.1e} of the largest "
                f"logit, more than {MAX_DIFFERENCE:.0e}; try another opset"
            )
    return found


def quantize_onnx(model: Path, output: Path) -> None:
    """Write an exported model with its weights in 8 bits: a quarter of the size, and masks that differ a little.

    Raises:
        OutputError: the file cannot be written.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic

    with _replacing(output) as scratch, _quiet():
        quantize_dynamic(
            model_input=model,
            model_output=scratch,
            per_channel=False,
            reduce_range=False,
            weight_type=QuantType.QUInt8,
        )


def difference(onnx_model: SamOnnxModel, path: Path, *, num_points: int = 3) -> float | None:
    """Run a file with ONNX Runtime and compare it with the model that it was made of.

    Args:
        onnx_model: the model.
        path: the file.
        num_points: of the prompt; another number than that of the export, which a file must take too.

    Returns:
        The largest difference of a logit over the largest logit; None if onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    inputs = example_inputs(onnx_model, num_points=num_points, original_size=(480, 640))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: Sequence[NDArray[Any]] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    expected = [value.numpy() for value in onnx_model(*inputs.values())]
    return max(
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for ours, theirs in ((found[0], expected[0]), (found[-1], expected[-1]))
    )


def example_inputs(
    onnx_model: SamOnnxModel, *, num_points: int = 5, original_size: tuple[int, int] = (1500, 2250)
) -> dict[str, Tensor]:
    """Inputs of the right shapes, by name, always the same.

    Args:
        onnx_model: whose inputs.
        num_points: N.
        original_size: (H, W) of the image.
    """
    encoder = onnx_model.model.prompt_encoder
    h, w = encoder.image_embedding_size
    random = torch.Generator().manual_seed(0)
    values = (
        torch.randn(1, encoder.embed_dim, h, w, generator=random),
        torch.rand(1, num_points, 2, generator=random) * onnx_model.img_size,
        torch.randint(0, 4, (1, num_points), generator=random).float(),
        torch.randn(1, 1, 4 * h, 4 * w, generator=random),
        torch.ones(1),
        torch.tensor(original_size, dtype=torch.float32),
    )
    return dict(zip(INPUT_NAMES, values, strict=True))


def _check_place(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputError(f"{path} exists already; --overwrite replaces an exported model, and nothing else")
    if not _is_export(path):
        raise OutputError(f"{path} is not an exported mask decoder, so --overwrite leaves it; name another file")


def _is_export(path: Path) -> bool:
    import onnx

    if not path.is_file() or path.is_symlink():
        return False
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # noqa: BLE001  whatever protobuf says of a file of another kind
        return False
    return tuple(value.name for value in graph.input) == INPUT_NAMES


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"this needs the package {package}: pip install 'sam-pipeline[onnx]'")


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``output`` once that is done."""
    try:
        with tempfile.TemporaryDirectory(prefix=".sam-pipeline-", dir=output.parent) as folder:
            scratch = Path(folder) / output.name
            yield scratch
            scratch.replace(output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {one_line(error)}") from error


@contextmanager
def _gelu(model: nn.Module, *, approximate: bool) -> Iterator[None]:
    """GELU by tanh for a while, where asked for."""
    changed = [module for module in model.modules() if isinstance(module, nn.GELU)] if approximate else []
    before = [module.approximate for module in changed]
    for module in changed:
        module.approximate = "tanh"
    try:
        yield
    finally:
        for module, value in zip(changed, before, strict=True):
            module.approximate = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about constants in traces, the legacy exporter, and pre-processing before quantization."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
