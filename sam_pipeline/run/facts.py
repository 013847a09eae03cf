"""What a run says of itself: how many images and masks it holds, of what, and by which settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from sam_pipeline.results.categories import read_categories
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.start_records import Start, read_starts


class RunFacts:
    """The properties of a run. What is read for one is kept, but for starts, which reads the log each time."""

    results: Results

    @property
    def output(self) -> str:
        """Folder of the run: an absolute path or a URI."""
        return self.results.output

    @property
    def num_images(self) -> int:
        """Planned images."""
        return self.results.num_images

    def __repr__(self) -> str:
        return f"<Run {self.output!r}, version {self.version}: {self.num_done} of {self.num_images} images>"

    @property
    def version(self) -> int:
        """The version of the Delta table of results."""
        version: int = self.results.table.version()
        return version

    @property
    def settings(self) -> dict[str, Any]:
        """What decided the values of the results, by name: every mask setting, precision, SHA-256 of the weights."""
        return dict(self.results.settings)

    @property
    def starts(self) -> list[Start]:
        """Who annotated when, where, with what and at which cost; the first start first.

        Reads the whole log of the table, a small file for each commit.

        Raises:
            OutputError: the log cannot be read.
            StorageUnavailableError: storage did not answer.
        """
        return read_starts(self.results.table)

    @cached_property
    def num_done(self) -> int:
        """Images that have a row, whatever its status and the selection."""
        return self.results.num_done

    @property
    def selection(self) -> MaskSelection:
        """Which masks this run shows: all, unless it was made by filter."""
        return self.results.selection

    @property
    def categories(self) -> dict[int, str]:
        """Names of the prompts' categories, by category_id; empty where the prompts' files name none.

        A file that is gone or cannot be read names none either, which is logged.

        Raises:
            StorageUnavailableError: storage did not answer.
        """
        return dict(self._categories)

    @cached_property
    def _categories(self) -> Mapping[int, str]:
        return read_categories(self.results).names

    @cached_property
    def image_ids(self) -> npt.NDArray[np.int64]:
        """The ids of the images that have a row, ascending, (len(run),); include and exclude of filter leave some out.

        Reads one small column of every file, once.
        """
        tables = self.results.tables(["image_id"])
        ids = np.sort(np.concatenate([np.empty(0, np.int64), *(rows["image_id"].to_numpy() for rows in tables)]))
        ids.setflags(write=False)
        return ids

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
        for rows in self.results.tables(["status", "num_masks"]):
            num_by_status.update(rows["status"].to_pylist())
            num_masks += pc.sum(rows["num_masks"]).as_py()
        return num_by_status, num_masks
