"""Which files of an input are images, and under which name each one's masks are written."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import one_line

_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm")
"""Files with these suffixes count as images, so one that is not an image is reported as broken."""


@dataclass(frozen=True)
class Target:
    """An image to be done."""

    path: Path
    """The file."""
    name: str
    """Name of its results; without .json."""


@dataclass(frozen=True)
class Listing:
    """What an input holds."""

    targets: tuple[Target, ...]
    """In the order of their paths."""
    others: tuple[Path, ...]
    """Files that are no images."""
    renamed: tuple[Target, ...]
    """Targets that have a longer name than the official script would give, because another has that too."""


def list_targets(input: str) -> Listing:
    """List an image, or the files in a folder.

    Raises:
        InputError: nothing there, or it cannot be listed.
    """
    root = Path(input)
    try:
        if root.is_dir():
            paths = sorted(path for path in root.iterdir() if not path.is_dir())
        else:
            root.stat()
            paths = [root]
    except OSError as error:
        raise InputError(f"input {input} cannot be listed: {one_line(error)}") from error
    if not paths:
        raise InputError(f"input {input} is a folder without files")
    # What is named itself is meant as an image, whatever it looks like.
    images = [path for path in paths if path == root or path.suffix.lower() in _SUFFIXES or _has_image_signature(path)]
    targets = [Target(path, name) for path, name in zip(images, _names(images), strict=True)]
    return Listing(
        tuple(targets),
        tuple(path for path in paths if path not in set(images)),
        tuple(target for target in targets if target.name != _short_name(target.path)),
    )


def _has_image_signature(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode) and cv2.haveImageReader(str(path))
    except (OSError, UnicodeError, cv2.error):  # OpenCV does not open names that are no UTF-8
        return False


def _names(paths: Sequence[Path]) -> list[str]:
    """For each path its name without suffix; the whole name where several would have the same."""
    names = [_short_name(path) for path in paths]
    while True:
        times = Counter(names)
        longer = [path.name if times[name] > 1 else name for path, name in zip(paths, names, strict=True)]
        if longer == names:  # whole names differ, so this comes to an end
            return names
        names = longer


def _short_name(path: Path) -> str:
    return os.path.splitext(path.name)[0]  # Path.stem of "...png" is "..", the folder above


def describe(paths: Sequence[Path], most: int = 3) -> str:
    """Names of the first files, as one line."""
    names = ", ".join(os.fspath(path.name) for path in paths[:most])
    return names + (", …" if len(paths) > most else "")
