"""A run as Python sees it: its rows, masks and images, and what is made of them."""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, SupportsIndex, Unpack, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sam_pipeline.config.base import settings_by_name
from sam_pipeline.errors import ConfigError, ImageError, MissingRowError
from sam_pipeline.masks.runs import rle
from sam_pipeline.results.images import read_images
from sam_pipeline.results.results import Results
from sam_pipeline.results.row_choice import checked_choice
from sam_pipeline.results.rows import DecodedMask, ImageMask, ImageRow
from sam_pipeline.results.selection.keywords import SelectionSettings
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.run.facts import RunFacts
from sam_pipeline.run.products import RunProducts
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.tables.delta import output_errors

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

# A row of a hundred masks is 50 KB as Arrow, and many times that as Python objects.
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False, repr=False)
class Run(RunFacts, RunProducts):
    """A run's results at the version they were opened at; what is committed later is seen by opening it again.

    Made by open_run and annotate. A run is a collection of rows, one for each image that is done: `len(run)` counts
    them, iterating yields them, `run[image_id]` is one of them, and `image_ids` are the ids that there are.

    Methods that read take the same choice of rows and columns:
        status: only images that ended so: ok, fetch_error, decode_error, too_large, changed, worker_crashed. None
            takes all; what failed has no masks.
        where: a condition on columns, such as `pyarrow.compute.field("num_masks") > 10`.
        columns: names of those wanted; None takes all. Without masks there is a hundredth to read.

    They raise ConfigError for a status or column that there is not, and for a condition that does not fit the columns;
    OutputError for files that are gone (after a vacuum an old version may not be whole: open the run again) or damaged;
    StorageUnavailableError if storage does not answer.
    """

    results: Results

    def __len__(self) -> int:
        is_whole = not (self.selection.include or self.selection.exclude)
        return self.num_done if is_whole else len(self.image_ids)

    def __iter__(self) -> Iterator[ImageRow]:
        return self.rows()

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, int | np.integer) and self._find(int(image_id), ["image_id"]) is not None

    def __getitem__(self, image_id: SupportsIndex) -> ImageRow:
        """The row of an image. Reads masks of the one row group that holds it.

        Raises:
            MissingRowError: a KeyError; there is no such image, it has no row yet, or the selection leaves it out.
        """
        number = int(operator.index(image_id))  # makes 1 of True, which Arrow compares with no number
        row = self._find(number, self.results.schema.names)
        if row is None:
            raise self._missing(number)
        return row

    def _find(self, image_id: int, columns: Sequence[str]) -> ImageRow | None:
        if not 0 <= image_id < self.num_images:
            return None
        where = pc.field("image_id") == image_id
        for table in self.results.tables(columns, where, first_id=image_id, last_id=image_id):
            return cast(ImageRow, table.slice(0, 1).to_pylist()[0])
        return None

    def _missing(self, image_id: int) -> MissingRowError:
        if not 0 <= image_id < self.num_images:
            planned = f"ids are 0 to {self.num_images - 1}" if self.num_images else "no image is planned"
            return MissingRowError(f"there is no image {image_id}: {planned}")
        if self.selection.include or self.selection.exclude:
            return MissingRowError(f"image {image_id} is not done yet, or is left out by include or exclude")
        return MissingRowError(f"image {image_id} is not done yet: {self.num_done} of {self.num_images} images are")

    def filter(self, **settings: Unpack[SelectionSettings]) -> Run:
        """The same run with the masks that are wanted only; nothing is read or written.

            best = run.filter(pred_iou_thresh=0.95, min_area=100, drop_contained="parts")

        Args:
            **settings: those of MaskSelection by name. What an earlier filter has set holds, unless it is given again.

        Raises:
            ConfigError: there is no setting of a name, a value is out of range, or looser than the run.
        """
        given = self.selection.effective() | dict(settings)
        return Run(self.results.select(settings_by_name(MaskSelection, given)))

    def rows(
        self, *, status: str | None = None, where: pc.Expression | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[ImageRow]:
        """Stream rows, in no particular order and in bounded memory, however large the run.

        See the class for arguments and errors.

        Yields:
            One image as a dict of Python values, with the columns asked for.
        """
        # A generator expression, so that what cannot be chosen is refused here and not with the first row.
        tables = self.results.tables(*checked_choice(self.results.schema, status, where, columns))
        return (
            row
            for table in tables
            for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE)
            for row in batch.to_pylist()
        )

    @overload
    def masks(
        self,
        image_id: SupportsIndex | None = None,
        *,
        status: str | None = None,
        where: pc.Expression | None = None,
        decode: Literal[False] = False,
    ) -> Iterator[ImageMask]: ...

    @overload
    def masks(
        self,
        image_id: SupportsIndex | None = None,
        *,
        status: str | None = None,
        where: pc.Expression | None = None,
        decode: Literal[True],
    ) -> Iterator[DecodedMask]: ...

    def masks(
        self,
        image_id: SupportsIndex | None = None,
        *,
        status: str | None = None,
        where: pc.Expression | None = None,
        decode: bool = False,
    ) -> Iterator[ImageMask] | Iterator[DecodedMask]:
        """Stream masks, image by image and in their order, in bounded memory.

            for mask in run.masks(decode=True):
                print(mask["image_id"], mask["area"], mask["pixels"].shape)

        See the class for status and where, which choose images, and for errors.

        Args:
            image_id: only those of this image.
            status: see the class.
            where: see the class.
            decode: whether each mask gets its pixels too, as `pixels`, (H, W) bool.

        Yields:
            A mask as it is stored, with `image_id`.

        Raises:
            MissingRowError: as in run[image_id].
        """
        if image_id is not None:
            image_id = int(operator.index(image_id))
            if image_id not in self:
                raise self._missing(image_id)
        columns, where = checked_choice(self.results.schema, status, where, ["image_id", "masks"])
        tables = self.results.tables(columns, where, first_id=image_id or 0, last_id=image_id)
        found = (
            cast(ImageMask, mask | {"image_id": row["image_id"]})
            for table in tables
            for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE)
            for row in batch.to_pylist()
            for mask in row["masks"]
        )
        if not decode:
            return found
        return (cast(DecodedMask, mask | {"pixels": rle.decode(mask["segmentation"])}) for mask in found)

    def read_image(self, image: ImageRow | int) -> npt.NDArray[np.uint8]:
        """Fetch and decode an image from wherever it was planned: a file, an archive, a Parquet file, a bucket.

        Args:
            image: its row, or its image_id.

        Returns:
            (H, W, 3) uint8 RGB, as it was annotated: after EXIF orientation, which its masks fit.

        Raises:
            ImageError: it is gone, is not the file that was annotated, or cannot be decoded.
            MissingRowError: there is no such image.
            StorageUnavailableError: storage did not answer.
        """
        image_id = int(operator.index(image)) if not isinstance(image, dict) else image["image_id"]
        for _, pixels in read_images(self.results, [image_id]):
            if isinstance(pixels, Exception):
                raise ImageError(f"cannot read image {image_id}: {one_line(pixels)}") from pixels
            return pixels
        raise self._missing(image_id)

    def to_arrow(
        self, *, status: str | None = None, where: pc.Expression | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read rows into memory, in no particular order, with the types of storage.tables.schema.MASKS_SCHEMA.

        See the class for arguments and errors.
        """
        names, where = checked_choice(self.results.schema, status, where, columns)
        nothing = self.results.schema.empty_table().select(names)
        return pa.concat_tables([nothing, *self.results.tables(names, where)])

    def to_pandas(
        self, *, status: str | None = None, where: pc.Expression | None = None, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Read rows into a data frame, in no particular order; lists within it are NumPy arrays.

        See the class for arguments and errors.

        Raises:
            ImportError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise ImportError("to_pandas needs pandas, which comes with no part of this package: pip install pandas")
        return self.to_arrow(status=status, where=where, columns=columns).to_pandas(use_threads=False)

    def dataset(self) -> ds.Dataset:
        """The results as a pyarrow dataset, for all else: DuckDB, batches of another size.

        It does not check page checksums, unless it is scanned with
        `ParquetFragmentScanOptions(page_checksum_verification=True)`; the command verify does. With pyarrow 26, a
        process that ends right after a dataset was read may abort on its way out; with `use_threads=False` it seldom
        does.

        Raises:
            ConfigError: the run shows a selection of its masks, which a dataset cannot.
        """
        if self.selection.effective():
            raise ConfigError("a dataset has all masks of a run: use to_arrow, or the command filter and its new run")
        table = self.results.table
        with output_errors(table.uri):
            table.renew()
            return table.to_pyarrow_dataset()
