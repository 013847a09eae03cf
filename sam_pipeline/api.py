"""The pipeline from Python: run or resume, then read the result as it stands in storage.

    run = annotate(input="photos/", output="masks/")    # or open_run("masks/")
    for row in run.rows(status="ok"):
        pixels = [decode_mask(mask) for mask in row["masks"]]

Reading needs neither Ray nor torch.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sam_pipeline.config import AnnotateConfig, PlanConfig
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.config.keywords import AnnotateSettings, StrPath
from sam_pipeline.errors import ConfigError, NothingSucceededError
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.rle import Rle
from sam_pipeline.results.mask_selection import MaskSelection
from sam_pipeline.results.results import Results
from sam_pipeline.safety.terminal import PlainConsole
from sam_pipeline.storage.objects.filesystem import absolute_uri
from sam_pipeline.storage.tables.delta import output_errors
from sam_pipeline.storage.tables.result_reading import check_condition
from sam_pipeline.storage.tables.schema import STATUSES, Status

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

# A row of a hundred masks is 50 KB as Arrow, and many times that as Python objects.
_ROWS_AT_ONCE = 64


class MaskDict(TypedDict):
    """One mask as it is stored; storage.schema.MASK_TYPE says what each field is."""

    segmentation: Rle
    bbox: list[int]
    area: int
    predicted_iou: float
    stability_score: float
    point_coords: list[list[float]]
    crop_box: list[int]
    prompt_id: int | None
    prompt_box: list[float] | None
    point_labels: list[int] | None
    category_id: int | None
    score: float | None


class PromptError(TypedDict):
    """A prompt or region that was not used, and why."""

    role: str
    prompt_id: int | None
    error: str


class ImageRow(TypedDict):
    """The result of one image as it is stored; storage.schema.MASKS_SCHEMA says what each field is."""

    image_id: int
    uri: str
    height: int | None
    width: int | None
    status: Status
    error: str | None
    num_masks: int
    masks: list[MaskDict]
    extra: str | None
    prompt_errors: list[PromptError] | None


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run's results at the version they were opened at; what is committed later is seen by opening it again.

    Made by open_run and annotate.

    Methods that read take the same choice of rows and columns:
        status: only images that ended so: ok, fetch_error, decode_error, too_large, changed, worker_crashed. None
            takes all; what failed has no masks.
        where: a condition on columns, such as `pyarrow.compute.field("num_masks") > 10`.
        columns: names of those wanted; None takes all. Without masks there is a hundredth to read.

    They raise ConfigError for a status or column that there is not, and for a condition that does not fit the columns;
    OutputError for files that are gone (after a vacuum an old version may not be whole: open the run again) or damaged;
    StorageUnavailableError if storage does not answer.
    """

    _results: Results

    @property
    def output(self) -> str:
        """Folder of the run: an absolute path or a URI."""
        return self._results.output

    @property
    def num_images(self) -> int:
        """Planned images."""
        return self._results.num_images

    def __repr__(self) -> str:
        return f"<Run {self.output!r}, version {self.version}: {self.num_done} of {self.num_images} images>"

    @property
    def version(self) -> int:
        """The version of the Delta table of results."""
        version: int = self._results.table.version()
        return version

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the values of the results, by name: every mask setting, precision, SHA-256 of the weights."""
        return dict(self._results.settings)

    @cached_property
    def num_done(self) -> int:
        """Images that have a row, whatever its status and the selection."""
        return self._results.num_done

    @property
    def selection(self) -> MaskSelection:
        """Which masks this run shows: all, unless it was made by filter."""
        return self._results.selection

    def filter(self, **settings: Any) -> Run:
        """The same run with the masks that are wanted only; nothing is read or written.

            best = run.filter(pred_iou_thresh=0.95, min_area=100, drop_contained="parts")

        Args:
            **settings: those of MaskSelection by name. What an earlier filter has set holds, unless it is given again.

        Raises:
            ConfigError: there is no setting of a name, a value is out of range, or looser than the run.
        """
        given = self.selection.effective() | settings
        return Run(self._results.select(settings_by_name(MaskSelection, given)))

    @property
    def num_by_status(self) -> dict[str, int]:
        """Images that have a row, by status. Reads one small column of every file, once."""
        return dict(self._counts[0])

    @property
    def num_masks(self) -> int:
        """Masks of all images. Reads one small column of every file, once."""
        return self._counts[1]

    @cached_property
    def _counts(self) -> tuple[Counter[str], int]:
        num_by_status: Counter[str] = Counter()
        num_masks = 0
        for rows in self._results.tables(["status", "num_masks"]):
            num_by_status.update(rows["status"].to_pylist())
            num_masks += pc.sum(rows["num_masks"]).as_py()
        return num_by_status, num_masks

    def rows(
        self, *, status: str | None = None, where: pc.Expression | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[ImageRow]:
        """Stream rows, in no particular order and in bounded memory, however large the run.

        See the class for arguments and errors.

        Yields:
            One image as a dict of Python values, with the columns asked for.
        """
        # A generator expression, so that what cannot be chosen is refused here and not with the first row.
        tables = self._results.tables(*self._choice(status, where, columns))
        return (
            row
            for table in tables
            for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE)
            for row in batch.to_pylist()
        )

    def to_arrow(
        self, *, status: str | None = None, where: pc.Expression | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read rows into memory, in no particular order, with the types of storage.schema.MASKS_SCHEMA.

        See the class for arguments and errors.
        """
        names, where = self._choice(status, where, columns)
        nothing = self._results.schema.empty_table().select(names)
        return pa.concat_tables([nothing, *self._results.tables(names, where)])

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

        It does not look at checksums, unless it is scanned with `ParquetFragmentScanOptions`; the command verify does.
        With pyarrow 26, a process that ends right after a dataset was read may abort on its way out; with
        `use_threads=False` it seldom does.
        """
        table = self._results.table
        with output_errors(table.uri):
            table.renew()
            return table.to_pyarrow_dataset()

    def _choice(
        self, status: str | None, where: pc.Expression | None, columns: Sequence[str] | None
    ) -> tuple[list[str], pc.Expression | None]:
        """Columns and condition, checked."""
        schema = self._results.schema
        if isinstance(columns, str):
            raise ConfigError(f"columns must be a list of strings, such as [{columns!r}], got {columns!r}")
        if where is not None and not isinstance(where, pc.Expression):
            raise ConfigError(
                f"where must be a condition such as pyarrow.compute.field('num_masks') > 10, got {where!r}"
            )
        names = list(schema.names if columns is None else columns)
        if unknown := [name for name in names if name not in schema.names]:
            raise ConfigError(f"no such column: {', '.join(unknown)}; there are {', '.join(schema.names)}")
        if status is not None:
            if status not in STATUSES:
                raise ConfigError(f"status must be one of {', '.join(STATUSES)}; got {status!r}")
            has_status = pc.field("status") == status
            where = has_status if where is None else has_status & where
        if where is not None:
            check_condition(where, schema)
        return names, where


@overload
def annotate(config: AnnotateConfig, *, show_progress: bool = True) -> Run: ...


@overload
def annotate(*, show_progress: bool = True, **settings: Unpack[AnnotateSettings]) -> Run: ...


def annotate(config: AnnotateConfig | None = None, *, show_progress: bool = True, **settings: Any) -> Run:
    """Run, or resume, until every planned image has a row; as the command `annotate` does.

        run = annotate(input="photos", output="run", model_type="vit_t", points_per_side=16)
        run = annotate(output="run")  # goes on where it was, with the same settings

    Ray is the one that this process is connected to, or that RAY_ADDRESS names, or one started here for the time of the
    run. What the run has to say beyond its progress goes to the logger `sam_pipeline`.

    Args:
        config: the run's settings. A resume must have the same, and may leave out all but `output`.
        show_progress: a live line on standard error; where that is no terminal, a plain line every ten seconds.
        **settings: in place of config, each setting by its name, which is that of its flag.

    Returns:
        The finished run, opened.

    Raises:
        ConfigError: there is no setting of a name, or a value is of another type, or out of range.
        NothingSucceededError: the run is finished, but no image is ok, or no prompt has a mask; open_run reads why.
        SamPipelineError: see sam_pipeline.errors; after any of the others the same call resumes.
    """
    if config is None:
        config = settings_by_name(AnnotateConfig, settings)
    elif settings:
        raise ConfigError(f"give settings in config or by name, not both: {', '.join(settings)}")
    elif not isinstance(config, AnnotateConfig):
        raise ConfigError(f"config must be an AnnotateConfig, got {config!r}; give settings by name: annotate(input=…)")
    from sam_pipeline.pipeline.annotate import annotate as run_annotate  # Ray and torch, which reading does without
    from sam_pipeline.pipeline.progress import RichDisplay

    # Were a silent console a terminal, rich would take over the standard output for its live line, and lose it.
    is_terminal = None if show_progress else False
    console = PlainConsole(
        stderr=True, markup=False, highlight=False, quiet=not show_progress, force_terminal=is_terminal
    )
    summary = run_annotate(config, lambda num_images, num_before: RichDisplay(num_images, num_before, console))
    if summary.outcome.total_failure is not None:
        raise NothingSucceededError(summary.outcome.total_failure)
    return open_run(config.output, config.storage_options)


def open_run(output: StrPath, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Open the results of a run, finished or not, for reading; nothing is written, and no run is disturbed.

    Args:
        output: folder of the run: a local path or a URI.
        storage_options: fsspec options, as for annotate; credentials come from the environment.

    Raises:
        ConfigError: a URI or options that are refused, because of a credential in them for example.
        OutputError: there is no plan or there are no results; it cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    # Checks both, and makes a string of a path.
    place = PlanConfig(output=cast(str, output), storage_options={} if storage_options is None else storage_options)
    return Run(Results.open(absolute_uri(place.output), place.storage_options))


def decode_mask(mask: MaskDict) -> npt.NDArray[np.bool_]:
    """The pixels of a stored mask: (H, W) bool, in the frame of the image after EXIF orientation."""
    return rle.decode(mask["segmentation"])
