"""Other generators of masks for everything in an image, all with MobileSAM's weights and the same settings.

They live in the peers' environment (`make bench`), not in the project's. Known differences from the official
generator, which is what they are compared with:

- transformers: its image processor keeps a mask when its stability score is above the threshold, not at least that,
  and gives no stability scores. Its encoder is MobileSAM's own module, since it has none of that kind.
- ultralytics: resizes with OpenCV, and filters and suppresses masks at the model's 1024 x 1024 before they are resized
  to the photograph as yes or no, so contours differ by pixels.
- segment-anything-fast: on GitHub only (the package of that name on PyPI is FastSAM, another model). It pins the
  memory of its prompts, for which torch wants a GPU: "Cannot access accelerator device when none is available".
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.parity import oracle

Generate = Callable[[NDArray[np.uint8]], list[dict[str, Any]]]

_TORCHVISION = "0.28.0"
"""The version that the stand-in passes for: the one that goes with the pinned torch."""
PIP_LOG = Path(".venv-peers/segment-anything-fast.log")
"""What pip said when `make bench` installed the peer that is on GitHub only."""


def transformers(settings: dict[str, Any], checkpoint: Path) -> Generate:
    """The mask-generation pipeline of Hugging Face."""
    from transformers import SamConfig, SamModel, pipeline
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
    from transformers.utils import import_utils

    from sam_pipeline.model.huggingface import to_huggingface

    _stand_in_for_torchvision()
    # The decorator of its NMS asks for torchvision; what it then imports is the stand-in.
    import_utils.BACKENDS_MAPPING["torchvision"] = (lambda: True, "")
    if settings.pop("min_mask_region_area", 0) > 0:
        raise RuntimeError("has no counterpart of min_mask_region_area")
    state_dict = torch.load(checkpoint, weights_only=True)
    model = SamModel(SamConfig())
    model.vision_encoder = _VisionEncoder(oracle.official_mobile_sam(state_dict).image_encoder)
    decoders = {name: value for name, value in state_dict.items() if not name.startswith("image_encoder.")}
    found = model.load_state_dict(to_huggingface(decoders), strict=False)
    # A model of this kind ties two names of the same frequencies; every other name must have been given.
    missing = [name for name in found.missing_keys if not name.startswith("vision_encoder.")]
    assert not missing, missing
    assert not found.unexpected_keys, found.unexpected_keys
    generator = pipeline("mask-generation", model=model.eval(), image_processor=SamImageProcessorPil(), device="cpu")
    their_names = {
        "points_per_side": "points_per_crop",
        "box_nms_thresh": "crops_nms_thresh",
        "crop_n_layers": "crops_n_layers",
    }
    options = {their_names.get(name, name): value for name, value in settings.items()}

    def generate(image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        result = generator(Image.fromarray(image), output_rle_mask=True, **options)
        return [
            {"segmentation": _compress(rle), "predicted_iou": float(score)}
            for rle, score in zip(result["rle_mask"], result["scores"], strict=True)
        ]

    return generate


def ultralytics(settings: dict[str, Any], checkpoint: Path) -> Generate:
    """Segment-everything of Ultralytics' predictor for SAM."""
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    os.environ.setdefault("YOLO_CONFIG_DIR", ".venv-peers")
    _stand_in_for_torchvision()
    known = importlib.metadata.version
    with mock.patch("importlib.metadata.version", lambda name: _TORCHVISION if name == "torchvision" else known(name)):
        from ultralytics.models.sam import Predictor

    defaults = {"points_per_side": 32, "box_nms_thresh": 0.7, "stability_score_offset": 1.0, "pred_iou_thresh": 0.88}
    chosen = defaults | settings
    overrides = {"model": str(checkpoint), "imgsz": 1024, "save": False, "verbose": False, "device": "cpu"}
    predictor = Predictor(
        overrides=overrides | {"conf": chosen["pred_iou_thresh"], "iou": chosen.pop("box_nms_thresh")}
    )
    their_names = {
        "points_per_side": "points_stride",
        "points_per_batch": "points_batch_size",
        "pred_iou_thresh": "conf_thres",
        "crop_n_points_downscale_factor": "crop_downscale_factor",
    }
    options = {their_names.get(name, name): value for name, value in chosen.items()}

    def generate(image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        (result,) = predictor(np.ascontiguousarray(image[..., ::-1]), **options)
        if result.masks is None:
            return []
        return [
            {"segmentation": _encode(mask), "predicted_iou": float(score)}
            for mask, score in zip(result.masks.data.numpy(), result.boxes.conf, strict=True)
        ]

    return generate


def segment_anything_fast(settings: dict[str, Any], checkpoint: Path) -> Generate:
    """The generator of segment-anything-fast: prompts in nested tensors, run lengths of all masks at once."""
    _stand_in_for_torchvision()
    try:
        from segment_anything_fast import SamAutomaticMaskGenerator
        from segment_anything_fast.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    except ImportError as error:
        raise RuntimeError(f"not installed ({error}); pip: {_pip_error()}") from error

    state_dict = torch.load(checkpoint, weights_only=True)
    sam = Sam(
        oracle.official_mobile_sam(state_dict).image_encoder,
        PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=256, transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
        ),
    )
    sam.load_state_dict(state_dict)
    generate: Generate = SamAutomaticMaskGenerator(sam.eval(), output_mode="coco_rle", **settings).generate
    return generate


class _VisionEncoder(nn.Module):
    """MobileSAM's encoder with the output that transformers expects of one of its own."""

    def __init__(self, image_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder

    def forward(self, pixel_values: Tensor, **options: Any) -> tuple[Tensor]:
        return (self.image_encoder(pixel_values),)


def _stand_in_for_torchvision() -> None:
    """Put the stand-in of the parity tests in place, with `torchvision.ops.nms` too; not over the real package."""
    oracle.official_module("utils.amg")
    torchvision = sys.modules["torchvision"]
    if torchvision.__spec__ is not None and torchvision.__spec__.loader is None:
        sys.modules["torchvision.ops"].nms = oracle.nms
        torchvision.ops = sys.modules["torchvision.ops"]


def _compress(rle: dict[str, Any]) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    return _as_text(coco_mask.frPyObjects(rle, *rle["size"]))


def _encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    return _as_text(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def _pip_error() -> str:
    try:
        errors = [line.split("ERROR: ", 1)[1] for line in PIP_LOG.read_text().splitlines() if "ERROR: " in line]
    except OSError:
        return f"no log {PIP_LOG}"
    return errors[0] if errors else "no error"
