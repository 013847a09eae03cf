"""The command `export-onnx`: scripts/export_onnx_model.py of segment_anything, with its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from sam_pipeline.cli.flags import Switch
from sam_pipeline.cli.output.printing import print_table
from sam_pipeline.config.model import ModelType


def export_onnx(
    output: Path,
    model_type: ModelType = "default",
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")] = None,
    opset: int = 17,
    return_single_mask: Switch = False,
    use_stability_score: Switch = False,
    return_extra_metrics: Switch = False,
    gelu_approximate: Switch = False,
    quantize_out: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None,
    overwrite: Switch = False,
) -> int:
    """Write the prompt encoder and mask decoder as an ONNX model, for ONNX Runtime or a browser.

    Args:
        output: File to write.
        model_type: SAM architecture; default is vit_h, vit_t is MobileSAM.
        checkpoint: Path or URI of the weights. Default: the official file of the model type, fetched once.
        opset: Version of ONNX's operators, 11 to 20.
        return_single_mask: Return the best mask only, not all four. Large images are enlarged faster.
        use_stability_score: Score masks by their stability, not by the predicted IoU.
        return_extra_metrics: Return five results: masks, scores, stability scores, areas, low-resolution logits.
        gelu_approximate: Write GELU by tanh, for runtimes whose erf is slow or missing.
        quantize_out: Write a second file with weights in 8 bits too: smaller, and masks that differ a little.
        overwrite: Replace models that were exported before; any other file stays.
    """
    from sam_pipeline.model import onnx_export
    from sam_pipeline.model.checkpoints import resolve_checkpoint
    from sam_pipeline.model.onnx_model import SamOnnxModel
    from sam_pipeline.model.registry import build_sam

    onnx_export.check_request(output, quantize_out, opset=opset, overwrite=overwrite)
    sam = build_sam(model_type, resolve_checkpoint(model_type, checkpoint))
    model = SamOnnxModel(sam, return_single_mask, use_stability_score, return_extra_metrics)
    difference = onnx_export.export_onnx(model, output, opset=opset, gelu_approximate=gelu_approximate)
    check = "not done: onnxruntime is not installed" if difference is None else f"masks as torch's ({difference:.0e})"
    rows: dict[str, object] = {"output": output, "size": _size(output), "check": check}
    if quantize_out is not None:
        onnx_export.quantize_onnx(output, quantize_out)
        rows |= {"quantized": quantize_out, "its size": _size(quantize_out)}
    print_table(rows)
    return 0


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
