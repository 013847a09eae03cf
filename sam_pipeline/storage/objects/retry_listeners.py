"""Who is told when a storage call is tried again, in any thread of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

RetryListener = Callable[[str], None]
"""Takes what the call does: "read", "write", "commit", …"""

_listeners: list[RetryListener] = []


@contextmanager
def retries_told_to(listener: RetryListener) -> Iterator[None]:
    """Call a listener before each retry, from the thread that waits for it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell_retry(operation: str) -> None:
    """Tell all listeners of a retry."""
    for listener in tuple(_listeners):
        listener(operation)
