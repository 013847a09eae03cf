"""The record of an image, or of a file that images or prompts are read from; and how an input is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from sam_pipeline.config import InputConfig
from sam_pipeline.storage.objects.filesystem import StorageOptions

MAX_IMAGE_BYTES = 2**30
"""Larger images are not fetched: a worker holds what it fetches in memory."""

LocationKind = Literal["range", "zip", "tar", "parquet"]
"""What an image is in its container; see Location.offset."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where in a container the bytes of an image are."""

    container: str
    """URI of the object that holds it."""
    kind: LocationKind
    offset: int
    """Where in the container the image is, from 0, in units that depend on the kind.

    range: in bytes. The image is bytes offset ≤ i < offset + length of the container, a tar archive without
        compression.
    zip: in bytes. Bytes offset ≤ i < offset + length of the archive are the local header, the image, stored or
        deflated, and perhaps a few bytes more; zips.unzip_member takes the image out.
    tar: in members of every type. The archive is compressed, so it is read from its beginning.
    parquet: in rows of the file.
    """
    length: int | None = None
    """In bytes; None in Parquet files. Of a member of a compressed tar archive it is the member's own size."""
    column: str | None = None
    """Path of the column in a Parquet file: `bytes`, or `image.bytes` for a field of a struct."""


@dataclass(frozen=True, slots=True)
class SourceObject:
    """An image to annotate as planning saw it, or a file as a listing saw it: an archive, a list, labels."""

    uri: str
    """Its name in the results: the object's URI, or for a member of a container the container's with a `#` and what is
    in it: `s3://bucket/shard.tar#0001.jpg`, `s3://bucket/part.parquet#0017`."""
    size_bytes: int | None
    """Of the image or file; None where only reading it would tell."""
    etag: str | None
    """What changes when the object, or the container, does: an ETag, or a modification time where there is none."""
    location: Location | None = None
    """None for an object by itself."""
    error: str | None = None
    """Why it is not to be fetched: the image ends as a row with status fetch_error and this error."""
    extra: str | None = None
    """What the source says about it and the user asked to keep: a JSON object."""


@dataclass(frozen=True)
class SourceOptions:
    """How an input is to be read, beyond its URI; each format takes what concerns it."""

    storage: StorageOptions
    """Fsspec options of remote filesystems."""
    images: InputConfig = field(default_factory=InputConfig)
    """How the images are to be read."""
    left_out: tuple[str, ...] = ()
    """Folders below the input that are no part of it: the tables of the output."""


SOURCE_FIELDS = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field(
        "location",
        pa.struct(
            [
                pa.field("container", pa.string()),
                pa.field("kind", pa.string()),
                pa.field("offset", pa.int64()),
                pa.field("length", pa.int64()),
                pa.field("column", pa.string()),
            ]
        ),
    ),
    pa.field("error", pa.string()),
    pa.field("extra", pa.string()),
]

SOURCE_SCHEMA = pa.schema(SOURCE_FIELDS)
"""SourceObject as Arrow, since an input may hold millions of them."""


def source_table(images: Iterable[SourceObject]) -> pa.Table:
    """Records as a table of SOURCE_SCHEMA."""
    return pa.Table.from_pylist([asdict(image) for image in images], schema=SOURCE_SCHEMA)


def object_of_row(row: Mapping[str, Any]) -> SourceObject:
    """The record of a row of SOURCE_SCHEMA, or of the plan."""
    location = None if row["location"] is None else Location(**row["location"])
    return SourceObject(row["uri"], row["size_bytes"], row["etag"], location, row["error"], row["extra"])
