"""The decorator of the numba kernels in this folder, which call one another across files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function without the GIL, with a * b + c rounded once, and keep the result on disk.

    numba compiles a kernel anew when its own file has changed, but not when a kernel or a constant of another file has.
    The old result may then write beyond its arrays. Here any change in the folder counts.
    """
    dispatcher = numba.njit(nogil=True, cache=True, fastmath={"contract"})(function)
    # There is no public way. Where numba has other names, its own rule holds; test_cpu_compiling.py would tell.
    cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = (cache_file._source_stamp, _SOURCES)
    return cast("Callable[P, R]", dispatcher)


def _hash_of_sources() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


_SOURCES = _hash_of_sources()
