"""Rows of a run by position, with the places of their images. Only an index is in memory; the rest is read on demand.

delta-rs does not work in a process that was forked from one in which it has worked, as DataLoader's workers on Linux
are. So the index remembers files, and these are read through fsspec, by whichever process has the index.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_pipeline.errors import OutputError
from sam_pipeline.results.results import Results
from sam_pipeline.results.row_groups import Reading, Request, request_for
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.layout import table_uri
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem
from sam_pipeline.storage.objects.range_file import ObjectFile
from sam_pipeline.storage.objects.retrying import retried
from sam_pipeline.storage.tables.delta import DataFile, committed_files, open_table, output_errors
from sam_pipeline.storage.tables.reading.result_reading import RowGroup, iterate_row_groups, results_schema
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA

HELD_BYTES = 128 << 20
"""Uncompressed bytes of row groups that a reader holds; images are shuffled within as many."""


@dataclass(frozen=True)
class StoredRow:
    """What is stored of an image that was annotated."""

    image_id: int
    uri: str
    size_hw: tuple[int, int]
    masks: list[dict[str, Any]]
    """With the fields asked for."""
    source: SourceObject
    """The image, as planned."""


@dataclass(frozen=True)
class _Place:
    """A row group of a file."""

    uri: str
    size_bytes: int
    number: int


class StoredRows:
    """The rows of the images that were annotated, in the order in which they are stored. It can be pickled.

    Opening reads small columns of every file; the index that it keeps is twelve bytes an image. A row then costs the
    reading of its row group, of which HELD_BYTES are held.

    Args:
        results: of the run.
        mask_fields: fields of masks that are wanted.
        keep_empty: whether images without masks, after the selection, have a position.

    Raises:
        OutputError: a file is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """

    def __init__(self, results: Results, mask_fields: tuple[str, ...], *, keep_empty: bool) -> None:
        where = pc.field("status") == "ok"
        if not keep_empty:
            where &= pc.field("num_masks") > 0
        schema, selection = results.schema, results.selection
        self._options, self._schema = results.storage_options, schema
        columns = ["image_id", "uri", "height", "width", "masks"]
        self._request = request_for(schema, columns, where, selection, mask_fields=mask_fields)
        self._planned = _PlannedImages(results.output, results.storage_options)
        self._held: OrderedDict[int, tuple[pa.Table, list[SourceObject]]] = OrderedDict()
        self._index(results, request_for(schema, ["image_id"], where, selection))

    def _index(self, results: Results, request: Request) -> None:
        sizes = {join_uri(results.table.uri, file.path): file.size_bytes for file in committed_files(results.table)}
        self._places: list[_Place] = []
        group_bytes, image_ids = [], [np.empty(0, np.int64)]
        for group in iterate_row_groups(results.table, results.storage_options):
            found = request.read(group, Reading())["image_id"].to_numpy()
            if len(found):
                image_ids.append(found)
                group_bytes.append(group.num_bytes)
                self._places.append(_Place(group.uri, sizes[group.uri], group.number))
        self.image_ids = np.concatenate(image_ids)
        """(N,) int64, by position."""
        self.group_of = np.repeat(np.arange(len(image_ids), dtype=np.int32) - 1, [len(each) for each in image_ids])
        """(N,) int32, ascending: the row group of each position."""
        self.group_bytes = np.array(group_bytes, dtype=np.int64)
        """(groups,) before compression."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: int) -> StoredRow:
        """Read a row.

        Raises:
            OutputError: its file is missing or damaged.
            StorageUnavailableError: storage did not answer.
        """
        group = int(self.group_of[position])
        rows, sources = self._group(group)
        within = position - int(np.searchsorted(self.group_of, group))
        (row,) = rows.slice(within, 1).to_pylist()
        if row["image_id"] != self.image_ids[position]:
            raise OutputError(f"{self._places[group].uri} is not the file that was opened")
        size_hw = (row["height"], row["width"])
        return StoredRow(row["image_id"], row["uri"], size_hw, row["masks"], sources[within])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict()}

    def _group(self, number: int) -> tuple[pa.Table, list[SourceObject]]:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        place = self._places[number]
        parquet = _open(place.uri, place.size_bytes, self._options)
        rows = self._request.read(RowGroup(parquet, place.number, self._schema, place.uri), Reading())
        while self._held and self.group_bytes[[*self._held, number]].sum() > HELD_BYTES:
            self._held.popitem(last=False)
        self._held[number] = rows, self._planned.sources(rows["image_id"].to_numpy())
        return self._held[number]


class _PlannedImages:
    """Where the images of a plan are, read through fsspec."""

    def __init__(self, output: str, options: StorageOptions) -> None:
        table = open_table(table_uri(output, "images"), options)
        if table is None:
            raise OutputError(f"no plan in {output}")
        self._uri, self._options = table.uri, options
        self._schema = results_schema(table)
        self._files = committed_files(table)

    def sources(self, image_ids: npt.NDArray[np.int64]) -> list[SourceObject]:
        """The planned images with these ids, in their order; reads the row groups that hold them."""
        wanted = pa.array(image_ids)
        found: dict[int, SourceObject] = {}
        for file in self._files:
            is_here = (image_ids >= file.min_image_id) & (image_ids <= file.max_image_id)
            if is_here.any():
                for rows in self._read(file, int(image_ids[is_here].min()), int(image_ids[is_here].max())):
                    some = rows.filter(pc.is_in(rows["image_id"], wanted))
                    found |= {row["image_id"]: object_of_row(row) for row in some.to_pylist()}
        if missing := set(image_ids.tolist()) - set(found):
            raise OutputError(f"{self._uri} does not plan image {min(missing)}, which the results have")
        return [found[image_id] for image_id in image_ids.tolist()]

    def _read(self, file: DataFile, first_id: int, last_id: int) -> list[pa.Table]:
        uri = join_uri(self._uri, file.path)
        parquet = _open(uri, file.size_bytes, self._options)
        groups = [RowGroup(parquet, number, self._schema, uri) for number in range(parquet.num_row_groups)]
        return [group.read(IMAGES_SCHEMA.names) for group in groups if group.may_hold(first_id, last_id)]


def _open(uri: str, size_bytes: int, options: StorageOptions) -> pq.ParquetFile:
    filesystem, path = open_filesystem(uri, options)
    retry = partial(retried, what=f"read {uri}", denied_is_final=False)
    with output_errors(uri):
        file = ObjectFile(filesystem, path, {"size": size_bytes}, retry)
        return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
