"""The networks inside an actor: load the pinned weights once, turn arrays into bytes for Arrow and back.

Reading and writing tasks stay free of this module, and so of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam_pipeline.errors import CheckpointError
from sam_pipeline.masks import prediction
from sam_pipeline.masks.generator import MAX_POINTS_AT_ONCE, MaskGenerator
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import UnusablePrompt
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.masks.shared_decoder import SharedDecoder
from sam_pipeline.model.checkpoints import resolve_checkpoint, sha256_of
from sam_pipeline.model.registry import build_sam
from sam_pipeline.model.sam import Sam
from sam_pipeline.pipeline.fitting_size import FittingSize
from sam_pipeline.pipeline.job import ActorRole, EncodedImage, Job
from sam_pipeline.pipeline.warming import warm_decoder, warm_encoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_EMBEDDING_SHAPE = (256, 64, 64)
# Images, or parts of them, whose NMS and RLE are done at once, beside the device's work.
_FINISHING_AT_ONCE = 2
# Their logits, 64 MB, wait for that.
_PROMPTS_AT_ONCE = 256
# With fewer, what the prompts of an image share takes most of the memory.
_LEAST_PROMPTS_AT_ONCE = 16


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
        role: which halves are asked for; the networks of the other are not kept.

    Raises:
        CheckpointError: this machine's weights are not the ones that the run was started with.
        ClusterError: this machine has a GPU and no C compiler.
    """

    def __init__(self, job: Job, role: ActorRole) -> None:
        # Ray sets the number of OpenMP threads from the reserved CPUs, which may be a fraction of one.
        torch.set_num_threads(job.threads)
        model = job.config.model
        path = resolve_checkpoint(model.model_type, model.checkpoint)
        if (found := sha256_of(path)) != job.weights_sha256:
            raise CheckpointError(f"{path} has SHA-256 {found}, the run was started with {job.weights_sha256}")
        self._job = job
        self._dtype = _DTYPES[job.precision]
        self._sam = _load(model.model_type, path, role).to(job.device)
        self._crops_at_once = FittingSize("crops")
        self._prompts_at_once = FittingSize("prompts", least=_LEAST_PROMPTS_AT_ONCE)
        if role != "decode" and job.device != "cpu":
            warm_encoder(self._sam, job.precision)
        if role != "encode":
            self._prepare_decoding()

    def _prepare_decoding(self) -> None:
        job, masks = self._job, self._job.config.masks
        decoder = SharedDecoder(self._sam, job.precision)
        self._generator = MaskGenerator(self._sam, job.crop_settings, job.precision, decoder, job.point_grids)
        self._prompted = PromptedMaskGenerator(
            self._sam, decoder, job.config.multimask_output, masks.stability_score_offset
        )
        self._finishers = ThreadPoolExecutor(_FINISHING_AT_ONCE, "finish-masks")
        if job.device != "cpu":
            warm_decoder(self._sam, decoder, self._prompted, job)

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> Iterator[bytes]:
        """Embed crops, (h, w, 3) uint8 each, batch_size at once; yields the bytes of (256, 64, 64) for each.

        Where the device's memory does not suffice, it is half as many at once from then on.
        """
        rest = crops
        while rest:
            embeddings = self._crops_at_once.call(partial(self._embed_first, rest), min(batch_size, len(rest)))
            rest = rest[len(embeddings) :]
            for embedding in embeddings:
                # NumPy has no bfloat16: its bytes cross as they are.
                yield embedding.contiguous().view(torch.uint8).numpy().tobytes()

    @torch.inference_mode()
    def _embed_first(self, crops: Sequence[npt.NDArray[np.uint8]], number: int) -> Tensor:
        return prediction.encode(self._sam, crops[:number], self._job.precision).cpu()

    def decode(self, images: Iterable[EncodedImage]) -> list[list[MaskRecord | UnusablePrompt]]:
        """Find the masks of images: those of prompts first, in their order, then those of the grid. See Engine.

        While threads finish the masks of one image, the device is busy with the next. Where its memory does not
        suffice, the images are begun anew, with half as many prompts at once.
        """
        images = list(images)
        return self._prompts_at_once.call(partial(self._decode, images), MAX_POINTS_AT_ONCE)

    def _decode(self, images: Sequence[EncodedImage], prompts_at_once: int) -> list[list[MaskRecord | UnusablePrompt]]:
        self._generator.points_at_once = min(self._generator.points_at_once, prompts_at_once)
        submitted: list[Future[Sequence[MaskRecord | UnusablePrompt]]] = []
        parts_by_image = []
        try:
            for image in images:
                first = len(submitted)
                for finish in self._detect(image, prompts_at_once):
                    submitted.append(self._finishers.submit(finish))
                    if len(submitted) > _FINISHING_AT_ONCE:  # lest a fast device leave the logits of thousands waiting
                        submitted[-1 - _FINISHING_AT_ONCE].result()
                parts_by_image.append(slice(first, len(submitted)))
            return [[mask for part in submitted[parts] for mask in part.result()] for parts in parts_by_image]
        finally:
            wait(submitted)  # after an error: they hold memory of the device, and the next call wants it

    def _detect(
        self, image: EncodedImage, prompts_at_once: int
    ) -> Iterator[Callable[[], Sequence[MaskRecord | UnusablePrompt]]]:
        """What is left to finish, part by part: an image may have any number of prompts."""
        if not image.embeddings:
            return
        # bytearray: torch warns of read-only memory, and the copy of 4 MB is nothing beside the decoder.
        buffers = [torch.frombuffer(bytearray(data), dtype=self._dtype) for data in image.embeddings]
        crops = torch.stack([buffer.view(_EMBEDDING_SHAPE) for buffer in buffers])
        if self._job.mode != "grid":
            prompts = image.prompts.prompts
            size = min(_PROMPTS_AT_ONCE, prompts_at_once)
            for first in range(0, len(prompts), size):
                some = prompts[first : first + size]
                yield partial(self._prompted.finish, self._prompted.detect(crops[:1], image.original_size, some))
        if self._job.mode != "prompted":
            found = self._generator.detect(crops, image.original_size, image.prompts.regions)
            yield partial(self._generator.finish, found)


def _load(model_type: str, path: Path, role: ActorRole) -> Sam:
    sam = build_sam(model_type, checkpoint=path)
    if role == "decode":
        sam.drop_image_encoder()
    if role == "encode":
        sam.drop_mask_decoder()
    return sam
