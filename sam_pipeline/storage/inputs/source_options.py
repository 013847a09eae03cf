"""How an input is to be read, beyond its URI."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam_pipeline.config import InputConfig
from sam_pipeline.storage.objects.filesystem import StorageOptions


@dataclass(frozen=True)
class SourceOptions:
    """What the sources are told; each takes what concerns it."""

    storage: StorageOptions
    """Fsspec options of remote filesystems."""
    images: InputConfig = field(default_factory=InputConfig)
    """How the images are to be read."""
    left_out: tuple[str, ...] = ()
    """Folders below the input that are no part of it: the tables of the output."""
