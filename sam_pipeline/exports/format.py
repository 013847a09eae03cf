"""What a format is: two functions, and what they need to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sam_pipeline.exports.batch import Batch
from sam_pipeline.exports.names import Names
from sam_pipeline.exports.places.place import Place
from sam_pipeline.exports.report import Report
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.results import Results
from sam_pipeline.results.review import Review


@dataclass(frozen=True, eq=False)
class Job:
    """What all parts of an export have in common."""

    results: Results
    """The run, at the version that is exported, with the selection."""
    settings: ExportSettings
    names: Names
    categories: Categories
    with_object: bool
    """Whether masks without a category may occur."""
    part_images: int
    """Planned images in a part."""
    review: Review | None = None
    """Which images and masks are left out beyond the selection."""
    with_file_ids: bool = False
    """Whether images and categories are named by the ids that they have in the COCO file that they came from."""
    kept: frozenset[str] = frozenset()
    """Names of files that no export wrote in the destination, which are not to be replaced."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What the images are divided into: train and val, or one division without a name."""
        return ("",) if self.settings.split is None else ("train", "val")


@dataclass(frozen=True)
class Piece:
    """Some of the images of an export, at most settings.shard_images where a format counts them."""

    split: str
    """train, val, or empty."""
    number: int
    """From 0 within its split, without a gap."""
    num_images: int = 0
    """How many it has; known when it is written."""
    num_masks: int = 0
    """How many they have; known when it is written."""


@dataclass(frozen=True)
class Format:
    """A format of exports.

    Each piece is written by one call, pieces of several parts perhaps at the same time on several machines. Names of
    files come from the piece and its images alone, so that a piece that was cut off is written over itself.
    """

    write_piece: Callable[[Job, Piece, Iterator[Batch], Place, Report], None]
    """Writes images. It takes every batch, and counts in the report what it cannot write, and what it loses. The
    images and masks themselves are counted already."""
    finish: Callable[[Job, Sequence[Piece], Place], None] | None = None
    """Writes what speaks of the whole, after all pieces, and before the export counts as finished; done again if it was
    cut off."""
    settings: frozenset[str] = frozenset()
    """Names of the settings that only some formats take, of those that this one takes: segmentation, bbox, parts,
    simplify, shard_images, images, convert_to_rle."""
    shard_images: int | None = None
    """Images in a piece, unless the user says so; None: a piece may have any number."""
    part_images: int = 4096
    """Planned images in a part, at least: so many are done again after a kill. Fewer where an image takes long."""
    suffixes: tuple[str, ...] = ()
    """What follows a name without its suffix in the names of an image's files, so that no two files have the same name,
    and none that of a folder; empty for formats without such files."""
    with_file_ids: bool = False
    """Whether ids are those of the COCO file that the images came from, if there is one."""
    temporary: str | None = None
    """A folder of files that finish joins to others, and that are deleted then."""
