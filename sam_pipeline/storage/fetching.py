"""Fetching the bytes of planned images, with retries for what may pass and an answer for every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tenacity

from sam_pipeline.storage.filesystem import StorageOptions, open_filesystem

_ATTEMPTS = 5
_FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError)

Fetched = bytes | Exception


def fetch(uris: Sequence[str], options: StorageOptions) -> list[Fetched]:
    """Fetch objects at once from the filesystem that the first URI names.

    Errors that may pass (throttling, resets, time-outs) are tried again with exponential backoff and jitter.

    Returns:
        For each URI its bytes, or the error that was left after the last attempt.
    """
    if not uris:
        return []
    filesystem, _ = open_filesystem(uris[0], options)
    results: dict[str, Fetched] = {}

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
        retry=tenacity.retry_if_result(bool),
        retry_error_callback=lambda _: None,
    )
    def fetch_missing() -> list[str] | None:
        missing = [uri for uri in dict.fromkeys(uris) if not _is_final(results.get(uri))]
        results.update(_cat(filesystem, missing))
        return [uri for uri in missing if not _is_final(results[uri])]

    fetch_missing()
    return [results[uri] for uri in uris]


def _cat(filesystem: Any, uris: Sequence[str]) -> dict[str, Fetched]:
    # Not cat: it expands names that hold [, * or ? as globs, and raises where none of them exists.
    nothing = [None] * len(uris)
    paths = [filesystem._strip_protocol(uri) for uri in uris]
    return dict(zip(uris, filesystem.cat_ranges(paths, nothing, nothing, on_error="return"), strict=True))


def _is_final(result: Fetched | None) -> bool:
    return isinstance(result, (bytes, *_FINAL_ERRORS))
