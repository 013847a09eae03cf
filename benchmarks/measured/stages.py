"""Where the time of a generator goes, by wrapping some of its functions while it runs.

Stages: encode (image to embedding, with resizing it), decode (prompts to low-resolution masks), masks (resizing,
scores, boxes, filters), rest (NMS, run lengths and whatever no wrapped function did).
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

STAGES = ("encode", "decode", "masks", "rest")

# Contender → stage → functions, "module:name" or "module:Class.name". A function wrapped inside another one takes
# its time away from the outer one's stage.
FUNCTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "ours": {
        "encode": (
            "sam_pipeline.masks.generator:prepare_crops",
            "sam_pipeline.masks.prediction:encode",
        ),
        "decode": (
            "sam_pipeline.masks.decoder.shared_decoder:SharedDecoder.share",
            "sam_pipeline.masks.decoder.shared_decoder:SharedDecoder.decode",
        ),
        "masks": (
            "sam_pipeline.masks.generator:MaskGenerator._decode_batch",
            "sam_pipeline.masks.full_resolution.upscaling:Upscaling.runs",
        ),
        "rest": (),
    },
    "official": {
        "encode": ("segment_anything.predictor:SamPredictor.set_image",),
        "decode": ("segment_anything.predictor:SamPredictor.predict_torch",),
        "masks": (
            "mobile_sam.modeling:Sam.postprocess_masks",
            "segment_anything.automatic_mask_generator:SamAutomaticMaskGenerator._process_batch",
        ),
        "rest": ("segment_anything.automatic_mask_generator:mask_to_rle_pytorch",),
    },
    "transformers": {
        "encode": (
            "transformers.models.sam.image_processing_pil_sam:SamImageProcessorPil.generate_crop_boxes",
            "transformers.models.sam.image_processing_pil_sam:SamImageProcessorPil.preprocess",
            "transformers.models.sam.modeling_sam:SamModel.get_image_embeddings",
        ),
        "decode": ("transformers.models.sam.modeling_sam:SamModel.forward",),
        "masks": (
            "transformers.models.sam.image_processing_pil_sam:SamImageProcessorPil.post_process_masks",
            "transformers.models.sam.image_processing_pil_sam:SamImageProcessorPil.filter_masks",
        ),
        "rest": ("transformers.models.sam.image_processing_pil_sam:_mask_to_rle",),
    },
    "ultralytics": {
        "encode": (
            "ultralytics.models.sam.predict:Predictor.preprocess",
            "ultralytics.models.sam.predict:Predictor.get_im_features",
        ),
        "decode": ("ultralytics.models.sam.predict:Predictor._inference_features",),
        "masks": (
            "ultralytics.models.sam.predict:Predictor.generate",
            "ultralytics.models.sam.predict:Predictor.postprocess",
        ),
        "rest": ("torchvision.ops:nms",),
    },
    "segment-anything-fast": {
        "encode": ("segment_anything_fast.predictor:SamPredictor.set_image",),
        "decode": ("segment_anything_fast.predictor:SamPredictor.predict_torch",),
        "masks": (
            "segment_anything_fast.modeling:Sam.postprocess_masks",
            "segment_anything_fast.automatic_mask_generator:SamAutomaticMaskGenerator._process_batch",
        ),
        "rest": ("segment_anything_fast.automatic_mask_generator:mask_to_rle_pytorch_2",),
    },
}


class StageClock:
    """Adds up the time of each stage; only calls from the thread that made it count."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._running: list[str] = []
        self._since = 0.0
        self._thread = threading.get_ident()

    def watch(self, contender: str) -> None:
        """Wrap the functions of a contender, once its modules are imported; a name that is gone is told on stderr."""
        for stage, names in FUNCTIONS[contender].items():
            for name in names:
                module, path = name.split(":")
                *owners, attribute = path.split(".")
                try:
                    owner = functools.reduce(getattr, owners, import_module(module))
                    setattr(owner, attribute, self.wrap(stage, getattr(owner, attribute)))
                except (ImportError, AttributeError) as error:
                    sys.stderr.write(f"benchmarks/measured/stages.py: {name} is not there, its time is rest: {error}\n")

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to the stage, less that of wrapped functions it calls."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            self._settle()
            self._running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._settle()
                self._running.pop()

        return timed

    def reset(self) -> None:
        """Forget what was measured so far."""
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def seconds(self, total: float) -> dict[str, float]:
        """Seconds of each stage; what is left of the total is rest."""
        measured = dict(self._seconds)
        measured["rest"] = total - sum(value for stage, value in measured.items() if stage != "rest")
        return measured

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
