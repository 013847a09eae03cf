"""Where the members of a tar archive are, by name: hard links say no more than the name of a member before them."""

from __future__ import annotations

from array import array

import numpy as np


class MemberPlaces:
    """Takes 24 bytes a member: there may be millions, and hardly any archive has links."""

    def __init__(self) -> None:
        self._hashes, self._offsets, self._sizes = array("q"), array("Q"), array("Q")

    def add(self, name: str, offset: int, num_bytes: int) -> None:
        """Remember a member."""
        self._hashes.append(hash(name))
        self._offsets.append(offset)
        self._sizes.append(num_bytes)

    def find(self, name: str) -> tuple[int, int] | None:
        """Offset and size of the last member of that name so far; None if there is none."""
        if not self._hashes:
            return None
        numbers = np.flatnonzero(np.frombuffer(self._hashes, np.int64) == hash(name))
        return (self._offsets[numbers[-1]], self._sizes[numbers[-1]]) if len(numbers) else None
