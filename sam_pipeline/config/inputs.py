"""Where images come from, and which of them are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sam_pipeline.config.base import Settings, check, check_place
from sam_pipeline.errors import ConfigError

InputFormat = Literal["auto", "files", "manifest", "parquet", "webdataset", "zip", "coco"]


@dataclass(frozen=True, kw_only=True)
class InputConfig(Settings):
    """Where the images are, and how to read them."""

    input: str | None = None
    """Folder or prefix, glob in quotes (* ? [] stand for parts of one name, ** for any folders), or single file; a
    local path, or a URI of s3, gs, az, abfs or hf. Hidden folders below it are skipped. May be left out once there is a
    plan."""
    input_format: InputFormat = "auto"
    """What the input is: images (files), a manifest of URIs (Parquet, CSV, TSV, JSON Lines, text), parquet with image
    bytes, webdataset tar archives, zip archives, or a coco annotation file. auto goes by the suffix, for a folder by
    what it holds, for Parquet by the columns. A file without a suffix is taken only if it is an image."""
    input_column: str | None = None
    """Column of a manifest with the URIs, or of Parquet files with the images. Default: chosen by names and first
    values of the columns; refused if these do not decide."""
    image_root: str | None = None
    """Folder or prefix that relative names in a manifest or annotation file start from. Default: where that file is."""
    keep: tuple[str, ...] = ()
    """Further columns of a manifest or Parquet file, or files of a WebDataset sample (json, cls; up to 1 MiB), to keep
    with each image: they come with its result, in the column extra."""
    allow_http: bool = False
    """Fetch images from http and https URIs that a manifest or annotation file names."""

    def __post_init__(self) -> None:
        """Raises ConfigError if a place is empty."""
        super().__post_init__()
        check_place("input", self.input)
        check_place("image_root", self.image_root)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Settings):
    """Which images of the input are planned."""

    include: tuple[str, ...] = ()
    """Only images whose URI, or the end of it, matches one of these patterns: '*.png', 'train/*.jpg', 'train/**'. As in
    the input, * ? [] stand for parts of one name and ** for any folders."""
    exclude: tuple[str, ...] = ()
    """No images whose URI, or the end of it, matches one of these patterns."""
    limit: int | None = None
    """Plan only this many images: the first in the order of their URIs. --extend adds the others."""
    sample: int | None = None
    """Plan only this many images, chosen at random. --extend adds the others."""
    seed: int = 0
    """Seed of the random choice that sample makes."""

    def __post_init__(self) -> None:
        """Raises ConfigError if a number is out of range, or limit and sample are both given."""
        super().__post_init__()
        for name in ("limit", "sample"):
            value = getattr(self, name)
            check(value is None or value > 0, name, "above 0", value)
        check(self.seed >= 0, "seed", "at least 0", self.seed)
        if self.limit is not None and self.sample is not None:
            raise ConfigError("limit takes the first images and sample takes some at random: give one of them")
