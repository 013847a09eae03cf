"""In which order images are read: shuffled, divided among ranks and workers, and near each other in the table.

A row group stores the masks of about a thousand images. An image that is read at random costs the reading of its
group, so that shuffling all images freely would read the table a thousand times. Instead the groups are shuffled, and
then the images of as many groups as a reader holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from sam_pipeline.errors import ConfigError
from sam_pipeline.torch.stored_rows import HELD_BYTES, StoredRows


@dataclass(frozen=True)
class Share:
    """A part of the images: that of a rank, or of a worker of a rank."""

    number: int = 0
    of: int = 1

    def part(self, number: int, of: int) -> Share:
        """A part of this part."""
        return Share(self.number * of + number, self.of * of)


def rank_share(rank: int | None, world_size: int | None) -> Share:
    """The part of a rank.

    Args:
        rank: of this process; None asks torch.distributed, or the environment that torchrun sets, or there is one rank.
        world_size: number of ranks; None as for rank.

    Raises:
        ConfigError: one is given without the other, rank is not below world_size, or the environment says no numbers.
    """
    if rank is None and world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return _share_of_environment()
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ConfigError(f"rank must be in [0, world_size), and both be given; got {rank} and {world_size}")
    return Share(rank, world_size)


def _share_of_environment() -> Share:
    rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        share = Share(int(rank), int(world_size))
    except ValueError:
        raise ConfigError(f"RANK and WORLD_SIZE must be whole numbers, got {rank!r} and {world_size!r}") from None
    if not 0 <= share.number < share.of:
        raise ConfigError(f"RANK must be in [0, WORLD_SIZE), got {rank} and {world_size}")
    return share


def epoch_order(
    group_of: npt.NDArray[np.int32],
    group_bytes: npt.NDArray[np.int64],
    share: Share,
    *,
    shuffle: bool,
    seed: int = 0,
    epoch: int = 0,
) -> npt.NDArray[np.int64]:
    """The positions of the images of a share in an epoch, in the order in which they are to be read.

    All shares of an epoch together have every image once, and their lengths differ by one at most.

    Args:
        group_of: (N,) ascending, the row group of each image.
        group_bytes: of each row group.
        share: of which rank or worker.
        shuffle: whether the order is one at random.
        seed: of the order; the same for all shares.
        epoch: gives each its own order.
    """
    order = np.arange(len(group_of))
    if shuffle:
        place = np.random.default_rng([seed, epoch]).permutation(len(group_bytes))
        order = np.argsort(place[group_of], kind="stable")
    mine = order[len(order) * share.number // share.of : len(order) * (share.number + 1) // share.of]
    if shuffle:
        random = np.random.default_rng([seed, epoch, share.number, share.of])
        for first, last in _windows(group_of[mine], group_bytes):
            random.shuffle(mine[first:last])
    return mine


def _windows(groups: npt.NDArray[np.int32], group_bytes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Split an order into stretches whose row groups fit into HELD_BYTES; yields (first, last) of each."""
    ends = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    first, begin, held = 0, 0, 0
    for end in ends:
        size = int(group_bytes[groups[begin]]) if end > begin else 0
        if begin > first and held + size > HELD_BYTES:
            yield first, begin
            first, held = begin, 0
        held += size
        begin = end
    yield first, len(groups)


class _HasRows(Protocol):
    """A MaskDataset, or what is like it."""

    @property
    def stored_rows(self) -> StoredRows: ...


class MaskSampler(Sampler[int]):
    """An order for a MaskDataset that reads its table once an epoch; ranks share the images, none dropped or repeated.

    Every image is drawn once by one rank. Ranks may differ by one image: where all must make the same number of steps,
    as in DistributedDataParallel, use its `join`, or `drop_last` and a number of images that the ranks divide.

    Args:
        dataset: a MaskDataset.
        shuffle: whether each epoch is shuffled: the row groups, then the images of a few row groups at a time.
        seed: of the order; the same in all ranks.
        rank: of this process; by default torch.distributed is asked, or the environment that torchrun sets.
        world_size: number of ranks; by default as rank.

    Raises:
        ConfigError: rank is not below world_size, or one is given without the other.
    """

    def __init__(
        self,
        dataset: _HasRows,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        rank_share(rank, world_size)
        self._dataset, self._shuffle, self._seed = dataset, shuffle, seed
        self._rank, self._world_size, self._epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; without it every epoch has the same."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self._order().tolist())

    def __len__(self) -> int:
        share, num_images = rank_share(self._rank, self._world_size), len(self._dataset.stored_rows)
        return num_images * (share.number + 1) // share.of - num_images * share.number // share.of

    def _order(self) -> npt.NDArray[np.int64]:
        rows = self._dataset.stored_rows
        share = rank_share(self._rank, self._world_size)
        return epoch_order(
            rows.group_of, rows.group_bytes, share, shuffle=self._shuffle, seed=self._seed, epoch=self._epoch
        )
