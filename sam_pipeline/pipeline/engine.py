"""The networks inside an actor: load the pinned weights once, turn arrays into bytes for Arrow and back.

Reading and writing tasks stay free of this module, and so of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sam_pipeline.errors import CheckpointError
from sam_pipeline.masks.generator import CropDetections, MaskGenerator
from sam_pipeline.masks.prompted import PromptDetections, PromptedMaskGenerator
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.shared_decoder import SharedDecoder
from sam_pipeline.model.checkpoints import resolve_checkpoint, sha256_of
from sam_pipeline.model.registry import build_sam
from sam_pipeline.pipeline.job import EncodedImage, Job

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_EMBEDDING_SHAPE = (256, 64, 64)
# Images whose NMS and RLE are done at once, beside the device's work.
_FINISHING_AT_ONCE = 2


def check_weights(model_type: str, path: Path) -> None:
    """Load weights once where the user sees the error: of an actor that fails to start, Ray reports little but text.

    Raises:
        CheckpointError: corrupt, or of another architecture.
    """
    build_sam(model_type, checkpoint=path)


class SamEngine:
    """A mask generator whose embeddings are bytes.

    Args:
        job: the run. Its weights are checked against the pinned sum before they are loaded.

    Raises:
        CheckpointError: this machine's weights are not the ones that the run was started with.
    """

    def __init__(self, job: Job) -> None:
        # Ray sets the number of OpenMP threads from the reserved CPUs, which may be a fraction of one.
        torch.set_num_threads(job.threads)
        model = job.config.model
        path = resolve_checkpoint(model.model_type, model.checkpoint)
        if (found := sha256_of(path)) != job.weights_sha256:
            raise CheckpointError(f"{path} has SHA-256 {found}, the run was started with {job.weights_sha256}")
        sam = build_sam(model.model_type, checkpoint=path).to(job.device)
        masks = job.config.masks
        decoder = SharedDecoder(sam, job.precision)
        self._mode = job.mode
        self._generator = MaskGenerator(sam, job.crop_settings, job.precision, decoder, job.point_grids)
        self._prompted = PromptedMaskGenerator(sam, decoder, job.config.multimask_output, masks.stability_score_offset)
        self._dtype = _DTYPES[job.precision]
        self._finishers = ThreadPoolExecutor(_FINISHING_AT_ONCE, "finish-masks")

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> Iterator[bytes]:
        """Embed crops, (h, w, 3) uint8 each, batch_size at once; yields the bytes of (256, 64, 64) for each."""
        for first in range(0, len(crops), batch_size):
            embeddings = self._generator.encode(crops[first : first + batch_size]).cpu()
            for embedding in embeddings:
                # NumPy has no bfloat16: its bytes cross as they are.
                yield embedding.contiguous().view(torch.uint8).numpy().tobytes()

    def decode(self, images: Iterable[EncodedImage]) -> list[list[MaskRecord]]:
        """Find the masks of images: those of prompts first, in their order, then those of the grid.

        While threads finish the masks of one image, the device is busy with the next.
        """
        finishing = [self._finishers.submit(self._finish, *self._detect(image)) for image in images]
        return [masks.result() for masks in finishing]

    def _detect(self, image: EncodedImage) -> tuple[PromptDetections | None, list[CropDetections]]:
        if not image.embeddings:
            return None, []
        # bytearray: torch warns of read-only memory, and the copy of 4 MB is nothing beside the decoder.
        buffers = [torch.frombuffer(bytearray(data), dtype=self._dtype) for data in image.embeddings]
        crops = torch.stack([buffer.view(_EMBEDDING_SHAPE) for buffer in buffers])
        of_prompts, of_grid = None, []
        if image.prompts.prompts and self._mode != "grid":
            of_prompts = self._prompted.detect(crops[:1], image.original_size, image.prompts.prompts)
        if self._mode != "prompted":
            of_grid = self._generator.detect(crops, image.original_size, image.prompts.regions)
        return of_prompts, of_grid

    def _finish(self, of_prompts: PromptDetections | None, of_grid: list[CropDetections]) -> list[MaskRecord]:
        prompted = [] if of_prompts is None else self._prompted.finish(of_prompts)
        return [*prompted, *self._generator.finish(of_grid)]
