"""Work in threads, for what leaves Python: Arrow, NumPy, files and requests."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 4


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What work makes of each item, in their order; a few are worked on at once, and not more are held.

    Raises:
        Exception: what work raises, when it is the item's turn.
    """
    num_threads = min(_MOST, max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        for item in items:
            running.append(threads.submit(work, item))
            if len(running) > num_threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
