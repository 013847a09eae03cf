"""The official implementations, to compare with: segment_anything 1.0 and MobileSAM's own code.

segment_anything imports four functions of torchvision, and MobileSAM's encoder three of timm. Both are replaced by
small stand-ins with the same semantics, so that neither package (nor the CUDA stack they pull in) is needed.

    sam = official_sam("vit_b", state_dict)
    sam = official_mobile_sam(state_dict)
    records = official_generator(sam, points_per_side=8).generate(image)
    predictor = official_predictor(sam)
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import tarfile
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sam_pipeline.model.checkpoints import cache_folder
from sam_pipeline.model.downloads import MOBILE_SAM_ARCHIVE, download_source_archive
from tests.random_weights import randomise as randomise


def official_sam(model_type: str, state_dict: Mapping[str, Tensor] | None = None) -> Any:
    """A segment_anything ``Sam`` in eval mode; given tensors become its parameters, without a copy."""
    build = _segment_anything().sam_model_registry[model_type]
    if state_dict is None:
        return build()
    with torch.device("meta"):  # no initial values, since all are replaced
        sam = build()
    return _with_weights(sam, state_dict)


def official_mobile_sam(state_dict: Mapping[str, Tensor] | None = None) -> Any:
    """MobileSAM's own ``Sam`` (vit_t) in eval mode; given tensors become its parameters, without a copy."""
    package = _mobile_sam()
    return _with_weights(package.sam_model_registry["vit_t"](), state_dict)


def official_generator(sam: Any, **settings: Any) -> Any:
    """segment_anything's ``SamAutomaticMaskGenerator`` over any of the models above, or over our ``Sam``."""
    return _segment_anything().SamAutomaticMaskGenerator(sam, **settings)


def official_predictor(sam: Any) -> Any:
    """segment_anything's ``SamPredictor`` over any of the models above, or over our ``Sam``."""
    return _segment_anything().SamPredictor(sam)


def official_module(name: str) -> types.ModuleType:
    """A module of segment_anything by its dotted name, as ``utils.amg``."""
    _segment_anything()
    return importlib.import_module(f"segment_anything.{name}")


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def _with_weights(sam: Any, state_dict: Mapping[str, Tensor] | None) -> Any:
    if state_dict is not None:
        sam.load_state_dict(state_dict, strict=True, assign=True)
        sam.eval()  # MobileSAM's attention caches its biases when the mode is set, so after loading
    return sam


def _segment_anything() -> types.ModuleType:
    _install_torchvision()
    return importlib.import_module("segment_anything")


def _mobile_sam() -> types.ModuleType:
    if "mobile_sam" not in sys.modules:
        _install_torchvision()
        _install_timm()
        folder = mobile_sam_folder()
        spec = importlib.util.spec_from_file_location(
            "mobile_sam", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["mobile_sam"] = module
        spec.loader.exec_module(module)
    return sys.modules["mobile_sam"]


def mobile_sam_folder() -> Path:
    """MobileSAM's code from the archive that also carries its weights, unpacked once into the cache."""
    digest = hashlib.sha256(MOBILE_SAM_ARCHIVE.sha256.encode()).hexdigest()[:12]
    folder = cache_folder() / "tests" / f"mobile_sam-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            archive = download_source_archive(MOBILE_SAM_ARCHIVE, Path(scratch))
            unpacked = Path(scratch) / "mobile_sam"
            marker = "/segment_any/mobile_sam/"
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile() and marker in member.name and member.name.endswith(".py"):
                        target = unpacked / member.name.split(marker)[1]
                        target.parent.mkdir(parents=True, exist_ok=True)
                        source = tar.extractfile(member)
                        assert source is not None
                        target.write_bytes(source.read())
            try:
                os.rename(unpacked, folder)
            except OSError:  # another test process was first
                assert folder.exists()
    return folder


def _install_torchvision() -> None:
    if importlib.util.find_spec("torchvision") is not None:  # the real one, or the stand-in of an earlier call
        return
    _module("torchvision")
    _module("torchvision.ops")
    _module("torchvision.ops.boxes", batched_nms=batched_nms, box_area=box_area)
    _module("torchvision.transforms")
    _module("torchvision.transforms.functional", resize=resize, to_pil_image=to_pil_image)


def _install_timm() -> None:
    class DropPath(nn.Identity):
        """Stochastic depth in eval mode; MobileSAM only builds it with a positive rate, which it never has."""

    _module("timm")
    _module("timm.models")
    _module("timm.models.layers", DropPath=DropPath, to_2tuple=lambda x: (x, x), trunc_normal_=nn.init.trunc_normal_)
    _module("timm.models.registry", register_model=lambda function: function)


def _module(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
    module.__path__ = []
    vars(module).update(members)
    sys.modules[name] = module


def box_area(boxes: Tensor) -> Tensor:
    """torchvision.ops.box_area: (x1 - x0) * (y1 - y0), without the one pixel that some codes add."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """torchvision.ops.nms on the CPU: indexes of the kept boxes by falling score, ties in the order given.

    Boxes are float32 and so is their IoU; the threshold is a double, as in the C++ kernel.
    """
    order = scores.sort(descending=True, stable=True).indices
    areas = box_area(boxes)
    suppressed = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for position, index in enumerate(order.tolist()):
        if suppressed[index]:
            continue
        kept.append(index)
        rest = order[position + 1 :]
        top_left = torch.maximum(boxes[index, :2], boxes[rest, :2])
        bottom_right = torch.minimum(boxes[index, 2:], boxes[rest, 2:])
        overlap = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        iou = overlap / (areas[index] + areas[rest] - overlap)
        suppressed[rest[iou.double() > iou_threshold]] = True
    return torch.tensor(kept, dtype=torch.int64)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """torchvision.ops.batched_nms: boxes of different categories never suppress one another."""
    if boxes.numel() == 0:
        return torch.empty((0,), dtype=torch.int64)
    if boxes.numel() > 4000:  # torchvision's own switch, for speed: a category at a time
        keep = torch.zeros_like(scores, dtype=torch.bool)
        for category in torch.unique(idxs):
            members = torch.where(idxs == category)[0]
            keep[members[nms(boxes[members], scores[members], iou_threshold)]] = True
        kept = torch.where(keep)[0]
        return kept[scores[kept].sort(descending=True, stable=True).indices]
    offsets = idxs.to(boxes) * (boxes.max() + 1)  # categories moved apart, then treated as one
    return nms(boxes + offsets[:, None], scores, iou_threshold)


def to_pil_image(image: np.ndarray) -> Image.Image:
    """torchvision's to_pil_image for (H, W, 3) uint8."""
    return Image.fromarray(image)


def resize(image: Image.Image, size: Sequence[int]) -> Image.Image:
    """torchvision's resize of a PIL image to (height, width): bilinear, which in PIL always filters when shrinking."""
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR)
