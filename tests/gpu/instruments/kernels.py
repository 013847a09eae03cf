"""Whether Triton's kernels ran: launches counted by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

from triton.runtime.jit import KernelInterface

DECODING = ("fold_first", "weigh_first", "fold_second", "weigh_second", "attend", "upscale")
"""Kernels of the mask decoder in half precision."""
TOKENS = ("embed_prompts", "add_norm", "head_layer")
"""Those that the tokens of prompts take, in any precision."""
MEASURING = ("_measure",)
"""Those that find boxes and stability scores."""
EDGES = ("_edges",)
"""Those that find the runs of masks that are kept."""


@contextmanager
def counted_launches() -> Iterator[Counter[str]]:
    """Count the kernels that are launched meanwhile, compiled or interpreted."""
    counts: Counter[str] = Counter()
    launcher = KernelInterface.__getitem__

    def counting(kernel, grid):
        counts[kernel.__name__] += 1
        return launcher(kernel, grid)

    with mock.patch.object(KernelInterface, "__getitem__", counting):
        yield counts


def require(counts: Counter[str], names: Iterable[str]) -> None:
    """Raises AssertionError naming the kernels that did not run."""
    missing = [name for name in names if not counts[name]]
    assert not missing, f"Triton was not used: no launch of {', '.join(missing)} (launched: {dict(counts)})"
