"""How an input is to be read, beyond its URI."""

from __future__ import annotations

from dataclasses import dataclass

from sam_pipeline.storage.objects.filesystem import StorageOptions


@dataclass(frozen=True)
class SourceOptions:
    """What the sources are told; each takes what concerns it."""

    storage: StorageOptions
    """Fsspec options of remote filesystems."""
    column: str | None = None
    """Of a manifest or a Parquet file: the column with the URIs or the images. None: found by its name and type."""
    image_root: str | None = None
    """Folder or prefix that relative names in a manifest or an annotation file start from; None: where that file is."""
    keep: tuple[str, ...] = ()
    """Other columns of a manifest or a Parquet file to keep with each image, in SourceImage.extra."""
    allow_http: bool = False
    """Whether images may be fetched from http and https URIs."""
    left_out: tuple[str, ...] = ()
    """Folders below the input that are no part of it: the tables of the output."""
