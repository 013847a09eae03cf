"""The networks inside an actor: load the pinned weights once, turn arrays into bytes for Arrow and back.

Reading and writing tasks stay free of this module, and so of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
# Images, or parts of them, whose NMS and RLE are done at once, beside the device's work.
_FINISHING_AT_ONCE = 2
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
        self._mode, self._device = job.mode, job.device
        self._generator = MaskGenerator(sam, job.crop_settings, job.precision, decoder, job.point_grids)
        self._prompted = PromptedMaskGenerator(sam, decoder, job.config.multimask_output, masks.stability_score_offset)
        self._dtype = _DTYPES[job.precision]
        self._finishers = ThreadPoolExecutor(_FINISHING_AT_ONCE, "finish-masks")

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> npt.NDArray[np.uint8]:
        """Embed crops, (h, w, 3) uint8 each, batch_size at once → (N, bytes of a (256, 64, 64) embedding)."""
        if not crops:
            return np.empty((0, 0), np.uint8)
        embeddings = self._host_tensor(len(crops))
        for first in range(0, len(crops), batch_size):
            encoded = self._generator.encode(crops[first : first + batch_size])
            _copy_to_host(encoded, embeddings[first : first + len(encoded)])
        if self._device == "cuda":
            torch.cuda.current_stream().synchronize()
        return _bytes_of(embeddings)

    def decode(self, images: Iterable[EncodedImage]) -> list[list[MaskRecord | UnusablePrompt]]:
        """Find the masks of images: those of prompts first, in their order, then those of the grid. See Engine.

        While threads finish the masks of one image, the device is busy with the next.
        """
        submitted: list[Future[Sequence[MaskRecord | UnusablePrompt]]] = []
        parts_by_image = []
        for image in images:
            first = len(submitted)
            for finish in self._detect(image):
                submitted.append(self._finishers.submit(finish))
                if len(submitted) > _FINISHING_AT_ONCE:  # lest a fast device leave the logits of thousands waiting
                    submitted[-1 - _FINISHING_AT_ONCE].result()
            parts_by_image.append(slice(first, len(submitted)))
        return [[mask for part in submitted[parts] for mask in part.result()] for parts in parts_by_image]

    def _detect(self, image: EncodedImage) -> Iterator[Callable[[], Sequence[MaskRecord | UnusablePrompt]]]:
        """What is left to finish, part by part: an image may have any number of prompts."""
        if not image.embeddings:
            return
        crops = self._host_tensor(len(image.embeddings))
        for crop, data in zip(_bytes_of(crops), image.embeddings, strict=True):
            crop[:] = np.frombuffer(data, np.uint8)
        crops = crops.to(self._device, non_blocking=True)
        if self._mode != "grid":
            prompts = image.prompts.prompts
            for first in range(0, len(prompts), _PROMPTS_AT_ONCE):
                some = prompts[first : first + _PROMPTS_AT_ONCE]
                yield partial(self._prompted.finish, self._prompted.detect(crops[:1], image.original_size, some))
        if self._mode != "prompted":
            found = self._generator.detect(crops, image.original_size, image.prompts.regions)
            yield partial(self._generator.finish, found)

    def _host_tensor(self, num_crops: int) -> Tensor:
        """Room for embeddings, pinned where a GPU copies to or from it."""
        shape = (num_crops, *_EMBEDDING_SHAPE)
        if self._device == "cuda":
            return torch.empty(shape, dtype=self._dtype, pin_memory=True)
        # NumPy asks for huge pages. The first touch of small ones would take longer than the copy.
        return torch.from_numpy(np.empty(shape, f"u{self._dtype.itemsize}")).view(self._dtype)


def _copy_to_host(embeddings: Tensor, host: Tensor) -> None:
    """Copy embeddings, which an encoder may leave with channels last, into contiguous host memory of the same shape."""
    if embeddings.is_cuda:
        # Turned round on the device, where that takes no time. Copies follow one another without waiting.
        host.copy_(embeddings.contiguous(), non_blocking=True)
    else:
        for embedding, place in zip(embeddings, host, strict=True):
            place.flatten(1).copy_(embedding.flatten(1))  # of two dimensions torch turns blocks: twice as fast


def _bytes_of(embeddings: Tensor) -> npt.NDArray[np.uint8]:
    """(N, …) → (N, bytes), a view: NumPy has no bfloat16, so its bytes cross as they are."""
    return embeddings.flatten(1).view(torch.uint8).numpy()
