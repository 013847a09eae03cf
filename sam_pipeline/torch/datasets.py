"""Datasets of a run's images and masks: map-style, for samplers, and iterable, for streams."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sam_pipeline.api import open_run
from sam_pipeline.config.keywords import StrPath
from sam_pipeline.errors import ConfigError, ImageError
from sam_pipeline.results.images import read_source
from sam_pipeline.results.selection.keywords import SelectionSettings
from sam_pipeline.run.run import Run
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.torch.order import epoch_order, rank_share
from sam_pipeline.torch.stored_rows import StoredRow, StoredRows
from sam_pipeline.torch.targets import MASK_FIELDS, Target, detection_target, read_labels

logger = logging.getLogger(__name__)

# Warnings about missing images in a process; later ones are logged at level DEBUG.
_WARNINGS = 10

Missing = Literal["error", "skip"]
Sample = tuple[Any, Any]
"""An image and its target, as the transforms leave them."""


class _Samples:
    """The images of a run with their targets, by position."""

    def __init__(
        self,
        run: Run | StrPath,
        storage_options: Mapping[str, Any] | None,
        transform: Callable[[npt.NDArray[np.uint8]], Any] | None,
        transforms: Callable[[Any, Target], Sample] | None,
        keep_empty: bool,
        missing: Missing,
        categories: StrPath | None,
        selection: SelectionSettings,
    ) -> None:
        if missing not in ("error", "skip"):
            raise ConfigError(f"missing must be error or skip, got {missing!r}")
        opened = run if isinstance(run, Run) else open_run(run, storage_options)
        results = opened.filter(**selection).results
        self._options, self._max_pixels = results.storage_options, results.settings["max_pixels"]
        self._transform, self._transforms, self._missing = transform, transforms, missing
        self.stored_rows = StoredRows(results, MASK_FIELDS, keep_empty=keep_empty)
        """Where the rows are; image_ids, (N,), are the ids of the images by position."""
        self._labels, self.categories = read_labels(results, None if categories is None else os.fspath(categories))
        self._num_missing = 0

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """The id of each image, (N,), in the order of positions."""
        return self.stored_rows.image_ids

    def sample(self, position: int) -> Sample | None:
        """Read an image and its masks; None if the image is missing and missing is "skip"."""
        row = self.stored_rows[position]
        try:
            image: Any = self._read(row)
        except ImageError as error:
            if self._missing == "error":
                raise
            self._num_missing += 1
            logger.log(logging.WARNING if self._num_missing <= _WARNINGS else logging.DEBUG, "skipped: %s", error)
            return None
        target = detection_target(row.image_id, row.masks, row.size_hw, self._labels)
        image = _as_tensor(image) if self._transform is None else self._transform(image)
        return (image, target) if self._transforms is None else self._transforms(image, target)

    def _read(self, row: StoredRow) -> npt.NDArray[np.uint8]:
        image = read_source(row.source, self._options, max_pixels=self._max_pixels)
        if isinstance(image, Exception):
            raise ImageError(f"cannot read image {row.image_id}, {row.uri}: {one_line(image)}") from image
        if image.shape[:2] != row.size_hw:
            now, then = ("x".join(map(str, size)) for size in (image.shape[:2], row.size_hw))
            raise ImageError(
                f"image {row.image_id}, {row.uri}, is not the one that was annotated: {now} pixels, not {then}"
            )
        return image


class MaskDataset(Dataset[Any]):
    """The images of a run with their masks as targets of a detector, one by one.

        dataset = MaskDataset("run", pred_iou_thresh=0.9)
        image, target = dataset[0]

    Images that were annotated (status ok) have the positions 0 to len(dataset) - 1, in the order in which they are
    stored. Opening reads small columns of the table only. A sample reads its image, and its row group (up to 1024
    images) unless that is still held. In order, or with MaskSampler, each group is read once an epoch; with a free
    shuffle, nearly once an image. The dataset can be pickled, and be used by workers that are forked or spawned.

    Args:
        run: of open_run, perhaps filtered; or its folder.
        storage_options: fsspec options for the folder, as for open_run.
        transform: called with the image, (H, W, 3) uint8 RGB; returns what the sample holds. Default: a tensor, (3, H,
            W) float32 in [0, 1], which torchvision's detection models take.
        transforms: called with image and target; returns both. For changes of both, such as a flip.
        keep_empty: whether images without masks are among them.
        missing: what to do with an image that is gone, changed or damaged: "error" raises ImageError, "skip" gives the
            sample None, which collate leaves out.
        categories: a file with the names of the categories: a COCO file, a data.yaml, or a text file with a name a
            line. By default that of the prompts or images, as for exports. Labels are the ids of exports; masks of a
            run of the grid have the label 1 by default.
        **selection: which masks are wanted: settings of Run.filter.

    Raises:
        ConfigError, OutputError, StorageUnavailableError: see open_run and Run.filter. ConfigError also if a mask has
            a category without a name.
        InputError: the file with the names of categories cannot be read.
    """

    def __init__(
        self,
        run: Run | StrPath,
        storage_options: Mapping[str, Any] | None = None,
        *,
        transform: Callable[[npt.NDArray[np.uint8]], Any] | None = None,
        transforms: Callable[[Any, Target], Sample] | None = None,
        keep_empty: bool = True,
        missing: Missing = "error",
        categories: StrPath | None = None,
        **selection: Unpack[SelectionSettings],
    ) -> None:
        self._samples = _Samples(
            run, storage_options, transform, transforms, keep_empty, missing, categories, selection
        )

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """The id of each image, (len(dataset),) int64, by position."""
        return self._samples.image_ids

    @property
    def categories(self) -> dict[int, str]:
        """The name of each label that targets may have."""
        return dict(self._samples.categories)

    @property
    def stored_rows(self) -> StoredRows:
        """Where the rows are, for samplers."""
        return self._samples.stored_rows

    def __len__(self) -> int:
        return len(self.stored_rows)

    def __getitem__(self, position: int) -> Sample | None:
        """Read an image and its target.

        Raises:
            IndexError: there is no such position.
            ImageError: the image cannot be read, and may not be missing.
            OutputError: a file of the run is missing or damaged.
            StorageUnavailableError: storage did not answer.
        """
        length = len(self)
        if not -length <= position < length:
            raise IndexError(f"position {position} of {length} images")
        return self._samples.sample(position % length)


class MaskIterableDataset(IterableDataset[Any]):
    """The images of a run with their masks as a stream, which divides itself among ranks and workers.

        dataset = MaskIterableDataset("run", shuffle=True)
        for epoch in range(10):
            dataset.set_epoch(epoch)
            for images, targets in DataLoader(dataset, batch_size=8, num_workers=4, collate_fn=collate):
                ...

    Each epoch yields every image once over all ranks and workers, whose shares differ by one image at most; row groups
    are read once, but for those that two workers share. The number of steps may differ between ranks.

    Args:
        run, storage_options, transform, transforms, keep_empty, categories, **selection: as for
            MaskDataset.
        missing: what to do with an image that is gone, changed or damaged: "error" raises ImageError, "skip" leaves it
            out.
        shuffle: whether each epoch is shuffled: the row groups, then the images of a few row groups at a time.
        seed: of the order; the same in all ranks.
        rank: of this process; by default torch.distributed is asked, or the environment that torchrun sets.
        world_size: number of ranks; by default as rank.

    Raises:
        As MaskDataset; ConfigError also if rank is not below world_size, or one is given without the other.
    """

    def __init__(
        self,
        run: Run | StrPath,
        storage_options: Mapping[str, Any] | None = None,
        *,
        transform: Callable[[npt.NDArray[np.uint8]], Any] | None = None,
        transforms: Callable[[Any, Target], Sample] | None = None,
        keep_empty: bool = True,
        missing: Missing = "error",
        categories: StrPath | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        **selection: Unpack[SelectionSettings],
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._share = rank_share(rank, world_size)
        self._samples = _Samples(
            run, storage_options, transform, transforms, keep_empty, missing, categories, selection
        )
        self._shuffle, self._seed = shuffle, seed
        # Workers that persist see a new epoch only in memory that they share.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """The ids of the images of all ranks, (N,) int64, as they are stored."""
        return self._samples.image_ids

    @property
    def categories(self) -> dict[int, str]:
        """The name of each label that targets may have."""
        return dict(self._samples.categories)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; without it every epoch has the same."""
        self._epoch.fill_(epoch)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned does not know its rank.
        return self.__dict__ | {"_share": rank_share(self._rank, self._world_size)}

    def __iter__(self) -> Iterator[Sample]:
        worker, share = get_worker_info(), self._share
        if worker is None or torch.distributed.is_initialized():  # a worker that was forked knows its rank
            share = rank_share(self._rank, self._world_size)
        if worker is not None:
            share = share.part(worker.id, worker.num_workers)
        rows, epoch = self._samples.stored_rows, int(self._epoch)
        order = epoch_order(rows.group_of, rows.group_bytes, share, shuffle=self._shuffle, seed=self._seed, epoch=epoch)
        samples = (self._samples.sample(position) for position in order.tolist())
        return (sample for sample in samples if sample is not None)


def collate(samples: Iterable[Sample | None]) -> tuple[list[Any], list[Any]]:
    """Make a batch of samples, for DataLoader: images in a list and targets in another, as images differ in size.

    None, which stands for an image that is missing, is left out.
    """
    found = [sample for sample in samples if sample is not None]
    return [image for image, _ in found], [target for _, target in found]


def _as_tensor(image: npt.NDArray[np.uint8]) -> torch.Tensor:
    # By NumPy: on a busy machine torch's threads wait for one another longer than all of this takes.
    height, width, _ = image.shape
    pixels = np.empty((3, height, width), np.float32)
    np.divide(image.transpose(2, 0, 1), np.float32(255), out=pixels)
    return torch.from_numpy(pixels)
