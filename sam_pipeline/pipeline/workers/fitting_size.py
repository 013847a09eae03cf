"""How much a device takes at once, found out by its running out of memory."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from sam_pipeline.pipeline.workers.device_faults import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class FittingSize:
    """A batch size that is halved whenever the device's memory runs out, and stays so.

    Args:
        what: is counted, for the log.
        least: the size that is not halved: what does not fit in it is an error.
    """

    def __init__(self, what: str, least: int = 1) -> None:
        self._what, self._least = what, least
        self._size = sys.maxsize

    def at_most(self, most: int) -> int:
        """The largest size up to most that is not known to be too large."""
        return min(self._size, most)

    def call(self, function: Callable[[int], Result], most: int) -> Result:
        """The result of a function of a size, which is called again until the size fits.

        Args:
            function: does its work from the beginning, with so many at once.
            most: the size, if the memory suffices.

        Raises:
            RuntimeError: the least size does not fit either, or whatever else the function raises.
        """
        while True:
            size = self.at_most(most)
            try:
                return function(size)
            except RuntimeError as error:
                if size <= self._least or not is_out_of_memory(error):
                    raise
            # Not in the handler, where the error still holds the frames that hold tensors.
            self.halve(size)

    def halve(self, size: int) -> None:
        """Remember that a size was too large."""
        self._size = max(self._least, size // 2)
        torch.cuda.empty_cache()
        logger.warning(
            "%d %s at once are too many for the device's memory: %d from now on", size, self._what, self._size
        )
