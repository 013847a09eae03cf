"""Masks of every target, one image after the other."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sam_pipeline.amg.reading import read_image
from sam_pipeline.amg.settings import AmgConfig
from sam_pipeline.amg.targets import Target
from sam_pipeline.amg.writing import Record, check_place, write_folder, write_json
from sam_pipeline.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.model.checkpoints import resolve_checkpoint
from sam_pipeline.model.registry import build_sam
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError

Generate = Callable[[NDArray[np.uint8]], Sequence[Record]]
"""From (H, W, 3) uint8 RGB to records in output mode `coco_rle`."""


@dataclass
class Progress:
    """What is done so far."""

    num_images: int = 0
    """Images that were looked at, broken ones among them."""
    num_failed: int = 0
    num_masks: int = 0


def place_of(target: Target, config: AmgConfig) -> Path:
    """Where the results of an image go."""
    return Path(config.output) / (f"{target.name}.json" if config.convert_to_rle else target.name)


def prepare_output(targets: Sequence[Target], config: AmgConfig) -> None:
    """Make the output folder, and refuse it if any image has something there.

    Raises:
        OutputError: something is there that may not be replaced, or the folder cannot be made.
    """
    try:
        Path(config.output).mkdir(parents=True, exist_ok=True)
        for target in targets:
            check_place(place_of(target, config), overwrite=config.overwrite)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which is told when it is that image's turn
            raise OutputError(f"output {config.output} cannot be written: {one_line(error)}") from error


def load_generator(config: AmgConfig) -> Generate:
    """The generator with its networks, on the device that is asked for.

    Raises:
        ConfigError: there is no such device, or a setting is out of range.
        CheckpointError: the weights cannot be read, or are of another architecture.
    """
    device = _device(config.model.device)
    checkpoint = resolve_checkpoint(config.model.model_type, config.model.checkpoint)
    sam = build_sam(config.model.model_type, checkpoint).to(device)
    # RLE also for PNGs: one mask is decoded at a time, where a large image with hundreds of them needs gigabytes.
    return SamAutomaticMaskGenerator(sam, **config.masks.by_name(), output_mode="coco_rle").generate


def write_masks(
    targets: Sequence[Target],
    config: AmgConfig,
    generate: Generate,
    update: Callable[[Progress], None],
    report: Callable[[str], None],
) -> Progress:
    """Read each image, find its masks and write them; an image that fails is reported, and the others go on.

    Args:
        targets: the images.
        config: where to, and in which form.
        generate: from an image to records.
        update: called after each image.
        report: called with a line on each failure.

    Raises:
        OutputError: nothing can be written any more, because the disk is full for example.
    """
    progress = Progress()
    for target in targets:
        try:
            records = generate(read_image(target.path))
            place = place_of(target, config)
            _write(place, records, config)
        except (DecodeError, TooLargeError, OSError, MemoryError, RuntimeError, cv2.error) as error:
            if isinstance(error, RuntimeError) and not _is_lack_of_memory(error):
                raise
            report(f"{target.path}: {one_line(error)}")
            progress.num_failed += 1
        else:
            progress.num_masks += len(records)
        progress.num_images += 1
        update(progress)
    return progress


def _write(place: Path, records: Sequence[Record], config: AmgConfig) -> None:
    try:
        (write_json if config.convert_to_rle else write_folder)(place, records, overwrite=config.overwrite)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # this image's own
            raise
        raise OutputError(f"{place} cannot be written: {one_line(error)}") from error


def _is_lack_of_memory(error: RuntimeError) -> bool:
    """On a CPU torch has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name} cannot be used: {one_line(error)}") from error
    return device
