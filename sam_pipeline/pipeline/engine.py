"""The networks inside an actor: load the pinned weights once, turn arrays into bytes for Arrow and back.

Reading and writing tasks stay free of this module, and so of torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sam_pipeline.errors import CheckpointError
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import UnusablePrompt
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.shared_decoder import SharedDecoder
from sam_pipeline.model.checkpoints import resolve_checkpoint, sha256_of
from sam_pipeline.model.registry import build_sam
from sam_pipeline.pipeline.job import EncodedImage, Job

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_EMBEDDING_SHAPE = (256, 64, 64)
# Their logits, 64 MB, wait for that.
_PROMPTS_AT_ONCE = 256


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
        self._num_finishers = job.finishers
        self._finishers = ThreadPoolExecutor(job.finishers, "finish-masks")

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> Iterator[bytes]:
        """Embed crops, (h, w, 3) uint8 each, batch_size at once; yields the bytes of (256, 64, 64) for each."""
        for first in range(0, len(crops), batch_size):
            embeddings = self._generator.encode(crops[first : first + batch_size]).cpu()
            for embedding in embeddings:
                # NumPy has no bfloat16: its bytes cross as they are.
                yield embedding.contiguous().view(torch.uint8).numpy().tobytes()

    def decode(self, images: Iterable[EncodedImage]) -> Iterator[list[MaskRecord | UnusablePrompt]]:
        """Find the masks of each image: those of prompts first, in their order, then those of the grid. See Engine.

        While threads finish the masks of one image, the device is busy with the next.
        """
        finishing: deque[Future[Sequence[MaskRecord | UnusablePrompt]]] = deque()
        waiting: deque[list[Future[Sequence[MaskRecord | UnusablePrompt]]]] = deque()
        for image in images:
            parts = []
            for finish in self._detect(image):
                parts.append(self._finishers.submit(finish))
                finishing.append(parts[-1])
                if len(finishing) > self._num_finishers:  # lest a fast device leave the logits of thousands waiting
                    finishing.popleft().result()
            waiting.append(parts)
            if len(waiting) > self._num_finishers:
                yield _masks_of(waiting.popleft())
        yield from map(_masks_of, waiting)

    def _detect(self, image: EncodedImage) -> Iterator[Callable[[], Sequence[MaskRecord | UnusablePrompt]]]:
        """What is left to finish, part by part: an image may have any number of prompts."""
        if not image.embeddings:
            return
        # bytearray: torch warns of read-only memory, and the copy of 4 MB is nothing beside the decoder.
        buffers = [torch.frombuffer(bytearray(data), dtype=self._dtype) for data in image.embeddings]
        crops = torch.stack([buffer.view(_EMBEDDING_SHAPE) for buffer in buffers])
        if self._mode != "grid":
            prompts = image.prompts.prompts
            for first in range(0, len(prompts), _PROMPTS_AT_ONCE):
                some = prompts[first : first + _PROMPTS_AT_ONCE]
                yield partial(self._prompted.finish, self._prompted.detect(crops[:1], image.original_size, some))
        if self._mode != "prompted":
            found = self._generator.detect(crops, image.original_size, image.prompts.regions)
            yield partial(self._generator.finish, found)


def _masks_of(parts: Sequence[Future[Sequence[MaskRecord | UnusablePrompt]]]) -> list[MaskRecord | UnusablePrompt]:
    return [mask for part in parts for mask in part.result()]
