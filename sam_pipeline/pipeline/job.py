"""What every worker needs to know of a run: one immutable record, shipped with each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam_pipeline.config import AnnotateConfig, MaskConfig, ResolvedMode, ResolvedPrecision
from sam_pipeline.masks.prompts import ImagePrompts, UnusablePrompt
from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.storage.run_ids import run_id

ActorRole = Literal["encode", "decode", "both"]
"""What an actor does, and so which networks it needs."""

Crops = list[npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class EncodedImage:
    """An image as the decoder gets it."""

    embeddings: Sequence[memoryview]
    """The bytes of each of its crops; none for an image that could not be read, or asks for nothing."""
    original_size: tuple[int, int]
    """(H, W) in pixels."""
    prompts: ImagePrompts


class Engine(Protocol):
    """The networks inside an actor."""

    def encode(self, crops: Sequence[npt.NDArray[np.uint8]], batch_size: int) -> npt.NDArray[np.uint8]:
        """Embed crops, (h, w, 3) uint8 each → (crops, bytes of an embedding), contiguous and the caller's."""

    def decode(self, images: Iterable[EncodedImage]) -> Iterable[Sequence[MaskRecord | UnusablePrompt]]:
        """Masks of each image: those of prompts first, in their order; a prompt without a mask has an error instead."""


@dataclass(frozen=True)
class Backend:
    """What the stages compute with: SAM, or a fast stand-in in tests of faults."""

    prepare: Callable[[Image.Image, MaskConfig], Crops]
    """An upright image of mode RGB → its resized crops; called where images are read."""
    load: Callable[[Job, ActorRole], Engine]
    """Called once in each actor."""


@dataclass(frozen=True)
class Job:
    """A run as its workers see it: resolved, with nothing left to decide."""

    config: AnnotateConfig
    output: str
    device: Literal["cpu", "cuda"]
    precision: ResolvedPrecision
    weights_sha256: str
    threads: int
    finishers: int
    """Threads of a decoder that make masks of what the device has found."""
    stall_timeout_s: float
    """Seconds without any progress after which the run fails."""
    image_timeout_s: float
    """Seconds on one image, or one batch, after which a stage counts as hanging and its process is ended."""
    worker_memory_bytes: int
    """What one worker process may allocate."""
    mode: ResolvedMode
    has_prompts: bool
    """Whether the run has prompts or regions."""
    max_masks: int
    """The largest number of prompts with a mask that an image has."""
    point_grids: tuple[npt.NDArray[np.float64], ...] | None
    """For the image and each crop layer, (P, 2) shares of width and height; None: those of points_per_side."""
    probe_uri: str | None
    """An image that could be read as the run began: tells a bad image from storage that fails. None: there is none."""
    images_folder: str | None
    """A folder on a disk that held images as the run began; None: they are elsewhere."""
    backend: Backend
    table_id: str
    """Id of the table of results: MaskTable.id."""
    is_sample: bool = False
    """Whether this is the sample of an estimate: its shards are removed as soon as they are written."""

    @property
    def run_id(self) -> str:
        """See run_id. Images of a sample are not counted among those of the run."""
        return f"{run_id(self.output)}-estimate" if self.is_sample else run_id(self.output)

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """Fsspec options of the input and the output."""
        return self.config.storage_options

    @property
    def generator_settings(self) -> MaskConfig:
        """See generator_settings."""
        return generator_settings(self.config.masks, self.mode)

    @property
    def crops_per_image(self) -> int:
        """See crops_per_image."""
        return crops_per_image(self.generator_settings)


def generator_settings(masks: MaskConfig, mode: ResolvedMode) -> MaskConfig:
    """The mask generator's settings, which also say which crops are encoded: prompts are for the whole image."""
    return replace(masks, crop_n_layers=0) if mode == "prompted" else masks


def crops_per_image(settings: MaskConfig) -> int:
    """1, 5, 21 …, as generate_crop_boxes makes them."""
    return sum(4**layer for layer in range(settings.crop_n_layers + 1))
