"""Line breaks in the values of a CSV list: right in quotes, or the work of a quote that nobody closed."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_END_BYTES = 1024
_LINE_END = "[\r\n]"

logger = logging.getLogger(__name__)


class RememberedEnd:
    """A file that remembers the last bytes that were read of it."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self.end = b""

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data: bytes = self._file.read(size)
        self.end = (self.end + data[-_END_BYTES:])[-_END_BYTES:]
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class LineBreaks:
    """How many rows of a list have values with line breaks.

    A stray quote at the beginning of a value takes in all that follows, up to the next quote: then the images of these
    lines are missing, and nothing else tells.
    """

    def __init__(self) -> None:
        self._num_rows = self._num_found = self._first = 0
        self._last_value = b""

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at the next rows: all columns of the list, as text or bytes."""
        if any(map(_may_have_breaks, batch.columns)):
            found = [pc.match_substring_regex(values, _LINE_END) for values in batch.columns]
            rows = np.flatnonzero(reduce(pc.or_, found).to_numpy(zero_copy_only=False))
            if len(rows) and not self._num_found:
                self._first = self._num_rows + int(rows[0])
            self._num_found += len(rows)
        self._num_rows += batch.num_rows
        if batch.num_rows:
            self._last_value = batch.columns[-1][-1:].cast(pa.binary())[0].as_py()

    def check_end(self, end: bytes) -> None:
        """Refuse a list that ends within quotes, and so has lost lines.

        Args:
            end: its last bytes.

        Raises:
            ValueError: saying in which row the quotes begin.
        """
        # A quote within quotes is written as two.
        written = b'"' + self._last_value.replace(b'"', b'""')
        if re.search(_LINE_END.encode(), self._last_value) and end.endswith(written[-_END_BYTES:]):
            raise ValueError(
                f"the last value of row {self._num_rows - 1} (from 0) begins with a quote that nothing closes, so it "
                "takes in all lines below: close it, or write the value in quotes and each quote in it twice"
            )

    def log(self) -> None:
        """Say how many rows there are, with the first of them."""
        if self._num_found:
            logger.warning(
                "values of %d rows hold line breaks, such as row %d (from 0); an open quote does that too, and then "
                "images are missing",
                self._num_found,
                self._first,
            )


@contextmanager
def long_row_errors() -> Iterator[None]:
    """Say of a row that is longer than Arrow's blocks what most often makes it so.

    Raises:
        ValueError: there is such a row.
    """
    try:
        yield
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        raise ValueError(
            "a line of more than a megabyte: lines must be shorter; or a value begins with a quote that nothing "
            "closes, and takes in all lines below"
        ) from error


def _may_have_breaks(values: pa.Array) -> bool:
    """A quick look at all bytes at once."""
    content = values.buffers()[2]
    data = b"" if content is None else content.to_pybytes()
    return any(end in data for end in (b"\r", b"\n"))
