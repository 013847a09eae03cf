"""The networks inside an actor: load the pinned weights once, turn arrays into bytes for Arrow and back.

Reading and writing tasks stay free of this module, and so of torch.
"""

from __future__ import annotations

from collections import deque
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
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.generator import MAX_POINTS_AT_ONCE, MaskGenerator
from sam_pipeline.masks.prompted import MAX_PROMPTS_AT_ONCE, PromptedMaskGenerator
from sam_pipeline.masks.prompts import UnusablePrompt
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.model.checkpoints import resolve_checkpoint, sha256_of
from sam_pipeline.model.registry import build_sam
from sam_pipeline.model.sam import Sam
from sam_pipeline.pipeline.job import ActorRole, EncodedImage, Job
from sam_pipeline.pipeline.workers.device_faults import is_out_of_memory
from sam_pipeline.pipeline.workers.fitting_size import FittingSize
from sam_pipeline.pipeline.workers.warming import warm_decoder, warm_encoder

Masks = Sequence[MaskRecord | UnusablePrompt]

_EMBEDDING_SHAPE = (256, 64, 64)
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
        job: the run. Its weights are checked against the pinned SHA-256 before they are loaded.
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
        self._dtype = prediction.DTYPES[job.precision]
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
        self._generator = MaskGenerator(self._sam, job.generator_settings, job.precision, decoder, job.point_grids)
        self._prompted = PromptedMaskGenerator(
            self._sam, decoder, job.config.multimask_output, masks.stability_score_offset
        )
        self._finishers = ThreadPoolExecutor(job.finishers, "finish-masks")
        in_grids = max(len(points) for points in self._generator.point_grids)
        self._most_prompts = MAX_PROMPTS_AT_ONCE if job.mode == "prompted" else min(in_grids, MAX_POINTS_AT_ONCE)
        if job.device != "cpu":
            warm_decoder(self._sam, decoder, self._prompted, job)

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> npt.NDArray[np.uint8]:
        """Embed crops, (h, w, 3) uint8 each, batch_size at once → (N, bytes of a (256, 64, 64) embedding).

        Where the device's memory does not suffice, it is half as many at once from then on.
        """
        if not crops:
            return np.empty((0, 0), np.uint8)
        embeddings = self._host_tensor(len(crops))
        first = 0
        while first < len(crops):
            embed = partial(self._embed, crops[first:], embeddings[first:])
            first += self._crops_at_once.call(embed, min(batch_size, len(crops) - first))
        if self._job.device == "cuda":
            torch.cuda.current_stream().synchronize()
        return _bytes_of(embeddings)

    @torch.inference_mode()
    def _embed(self, crops: Sequence[npt.NDArray[np.uint8]], host: Tensor, number: int) -> int:
        """Embed the first `number` crops; returns how many."""
        _copy_to_host(prediction.encode(self._sam, crops[:number], self._job.precision), host[:number])
        return number

    def decode(self, images: Iterable[EncodedImage]) -> Iterator[Masks]:
        """Find the masks of each image: those of prompts first, in their order, then those of the grid. See Engine.

        While threads finish the masks of one image, the device is busy with the next. An image for which the device's
        memory does not suffice is begun anew, with half as many prompts at once from then on.
        """
        started: deque[tuple[EncodedImage, list[Future[Masks]] | None]] = deque()
        finishing: deque[Future[Masks]] = deque()
        for image in images:
            started.append((image, self._start(image, finishing)))
            if len(started) > self._job.finishers:
                yield self._finished(*started.popleft())
        while started:
            yield self._finished(*started.popleft())

    def _start(self, image: EncodedImage, finishing: deque[Future[Masks]]) -> list[Future[Masks]] | None:
        """Have parts of an image finished by threads; None where the device's memory does not suffice.

        Args:
            image: the image.
            finishing: what threads have still to finish, of this image and of others.
        """
        parts: list[Future[Masks]] = []
        prompts_at_once = self._prompts_at_once.at_most(self._most_prompts)
        try:
            for finish in self._detect(image, prompts_at_once):
                parts.append(self._finishers.submit(finish))
                finishing.append(parts[-1])
                if len(finishing) > self._job.finishers:  # lest a fast device leave the logits of thousands waiting
                    wait([finishing.popleft()])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return parts
        self._prompts_at_once.halve(prompts_at_once)
        return None

    def _finished(self, image: EncodedImage, parts: list[Future[Masks]] | None) -> Masks:
        if parts is not None:
            return _joined(part.result() for part in parts)
        return self._prompts_at_once.call(partial(self._decode_alone, image), self._most_prompts)

    def _decode_alone(self, image: EncodedImage, prompts_at_once: int) -> Masks:
        return _joined(finish() for finish in self._detect(image, prompts_at_once))

    def _detect(self, image: EncodedImage, prompts_at_once: int) -> Iterator[Callable[[], Masks]]:
        """What is left to finish, part by part: an image may have any number of prompts."""
        if not image.embeddings:
            return
        self._generator.points_at_once = min(self._generator.points_at_once, prompts_at_once)
        crops = self._host_tensor(len(image.embeddings))
        for crop, data in zip(_bytes_of(crops), image.embeddings, strict=True):
            crop[:] = np.frombuffer(data, np.uint8)
        crops = crops.to(self._job.device, non_blocking=True)
        if self._job.mode != "grid":
            prompts = image.prompts.prompts
            size = min(MAX_PROMPTS_AT_ONCE, prompts_at_once)
            for first in range(0, len(prompts), size):
                some = prompts[first : first + size]
                yield partial(self._prompted.finish, self._prompted.detect(crops[:1], image.original_size, some))
        if self._job.mode != "prompted":
            found = self._generator.detect(crops, image.original_size, image.prompts.regions)
            yield partial(self._generator.finish, found)

    def _host_tensor(self, num_crops: int) -> Tensor:
        """Room for embeddings, pinned where a GPU copies to or from it."""
        shape = (num_crops, *_EMBEDDING_SHAPE)
        if self._job.device == "cuda":
            return torch.empty(shape, dtype=self._dtype, pin_memory=True)
        # NumPy asks for huge pages. The first touch of small ones would take longer than the copy.
        return torch.from_numpy(np.empty(shape, f"u{self._dtype.itemsize}")).view(self._dtype)


def _copy_to_host(embeddings: Tensor, host: Tensor) -> None:
    """Copy embeddings, which an encoder may leave with channels last, into contiguous host memory of the same shape."""
    if embeddings.is_cuda:
        # Made contiguous on the device, where that takes almost no time. Copies are queued without waiting.
        host.copy_(embeddings.contiguous(), non_blocking=True)
    else:
        for embedding, place in zip(embeddings, host, strict=True):
            place.flatten(1).copy_(embedding.flatten(1))  # torch transposes 2-D tensors in blocks: twice as fast


def _bytes_of(embeddings: Tensor) -> npt.NDArray[np.uint8]:
    """(N, …) → (N, bytes), a view: NumPy has no bfloat16, so its bytes cross as they are."""
    return embeddings.flatten(1).view(torch.uint8).numpy()


def _joined(parts: Iterable[Masks]) -> Masks:
    return [mask for part in parts for mask in part]


def _load(model_type: str, path: Path, role: ActorRole) -> Sam:
    sam = build_sam(model_type, checkpoint=path)
    if role == "decode":
        sam.drop_image_encoder()
    if role == "encode":
        sam.drop_mask_decoder()
    return sam
