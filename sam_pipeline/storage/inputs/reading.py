"""Fetching planned images of every kind: objects, and what is in archives and Parquet files, in the plan's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice, repeat
from operator import itemgetter

from sam_pipeline.safety.uri_rules import HTTP_SCHEMES
from sam_pipeline.storage.inputs.containers.parquet_reading import read_parquet_rows, readings
from sam_pipeline.storage.inputs.containers.tars import read_tar_members
from sam_pipeline.storage.inputs.containers.zips import unzip_member
from sam_pipeline.storage.inputs.fetching import (
    FETCH_LIMIT_S,
    Fetched,
    RefusedError,
    TooLargeToFetchError,
    check_container,
    confirm_image_error,
    fetch,
    other_names,
)
from sam_pipeline.storage.inputs.source_object import Location, SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.retrying import retried

# Fetched at once by a task: enough to hide latency, few enough that their bytes fit beside everything else.
_AT_ONCE = 8
_BYTES_AT_ONCE = 2**28

_GONE = (FileNotFoundError, IsADirectoryError)

_Read = Callable[[Sequence[Location]], Iterator[tuple[int, Fetched]]]
"""Locations in one container, in its order → their offsets and bytes, while the container is read once."""


def fetch_images(
    images: Sequence[SourceObject],
    storage_options: StorageOptions,
    probe_uri: str | None,
    *,
    limit_s: float = FETCH_LIMIT_S,
) -> Iterator[Fetched]:
    """Fetch images in order, holding the bytes of a few at a time.

    Neighbours that share a container are read from it together, after a check that it is still the planned one.
    Compressed tar archives and Parquet files are read again where images do not come in reading_order. Where no object
    has the name that a list gives, other forms of the name are tried.

    Args:
        images: planned ones, as neighbours in the plan.
        storage_options: of the storage.
        probe_uri: see fetching.fetch.
        limit_s: seconds in which an object, or a range of a container, must come. Each part of a compressed tar archive
            or a Parquet file has ranges.RANGE_LIMIT_S instead.

    Yields:
        For each image its bytes, or what is wrong with it.

    Raises:
        InputError, StorageUnavailableError: see fetching.fetch.
    """
    for (kind, _), neighbours in groupby(images, _place):
        group = list(neighbours)
        if kind == "refused":
            yield from (RefusedError(image.error) for image in group)
        elif kind == "object":
            yield from _fetch_some(group, storage_options, probe_uri, limit_s)
        elif (error := check_container(group[0], storage_options, probe_uri)) is not None:
            yield from (error for _ in group)
        elif kind == "tar":
            yield from _read_through(group, lambda left: _tar(left, storage_options), storage_options, probe_uri)
        elif kind == "parquet":
            yield from _read_through(group, lambda left: _parquet(left, storage_options), storage_options, probe_uri)
        elif kind == "zip":
            stored = _fetch_some(group, storage_options, probe_uri, limit_s)
            yield from (_unzipped(image, data) for image, data in zip(group, stored, strict=True))
        else:
            yield from _fetch_some(group, storage_options, probe_uri, limit_s)


def reading_order(image: SourceObject) -> tuple[str, int]:
    """A key to sort images by, so that each container is read once, from its beginning, whatever the names in it."""
    return (image.uri, 0) if image.location is None else (image.location.container, image.location.offset)


def _place(image: SourceObject) -> tuple[str, str]:
    """What is fetched together: one container, or objects of one filesystem (a manifest may name several)."""
    if image.error is not None:
        return "refused", ""
    if image.location is not None:
        return image.location.kind, image.location.container
    scheme, _, rest = image.uri.partition("://")
    # One filesystem reads all of the web, where every image may be of another host.
    return "object", "http" if scheme in HTTP_SCHEMES else f"{scheme}://{rest.partition('/')[0]}"


def _fetch_some(
    images: Sequence[SourceObject], storage_options: StorageOptions, probe_uri: str | None, limit_s: float
) -> Iterator[Fetched]:
    """Fetch a few at a time; one that is larger than its share of their bytes comes alone."""
    for some in _groups(images):
        for image, answer in _fetch_by_any_name(some, storage_options, probe_uri, limit_s):
            if isinstance(answer, TooLargeToFetchError) and image.size_bytes is None:
                yield from fetch([image], storage_options, probe_uri, limit_s=limit_s)
            else:
                yield answer


def _groups(images: Sequence[SourceObject]) -> Iterator[list[SourceObject]]:
    group: list[SourceObject] = []
    num_bytes = 0
    for image in images:
        planned_bytes = (image.size_bytes if image.location is None else image.location.length) or 0
        if group and (len(group) == _AT_ONCE or num_bytes + planned_bytes > _BYTES_AT_ONCE):
            yield group
            group, num_bytes = [], 0
        group.append(image)
        num_bytes += planned_bytes
    if group:
        yield group


def _fetch_by_any_name(
    images: Sequence[SourceObject], storage_options: StorageOptions, probe_uri: str | None, limit_s: float
) -> list[tuple[SourceObject, Fetched]]:
    """Fetch images in parallel; those not there by other forms of their names. Each comes with the name it has."""
    fetch_all = partial(
        fetch,
        storage_options=storage_options,
        probe_uri=probe_uri,
        max_bytes=_BYTES_AT_ONCE // _AT_ONCE,
        limit_s=limit_s,
    )
    found = list(zip(images, fetch_all(images), strict=True))
    left = {
        index: other_names(image) for index, (image, data) in enumerate(found) if isinstance(data, FileNotFoundError)
    }
    while left:
        named = {index: replace(images[index], uri=uri) for index, names in left.items() for uri in islice(names, 1)}
        answers = dict(zip(named, fetch_all(list(named.values())), strict=True))
        left = {index: left[index] for index, data in answers.items() if isinstance(data, _GONE)}
        found = [
            (named[index], answers[index]) if index in answers and index not in left else before
            for index, before in enumerate(found)
        ]
    return found


def _read_through(
    images: Sequence[SourceObject], read: _Read, storage_options: StorageOptions, probe_uri: str | None
) -> Iterator[Fetched]:
    """Read images while their container is read once; after an outage it is read again from the image that it hit."""
    locations = [image.location for image in images if image.location is not None]
    reading: Iterator[tuple[int, Fetched]] | None = None

    def next_of(left: Sequence[Location]) -> Fetched:
        nonlocal reading
        try:
            reading = read(left) if reading is None else reading
            return next(reading)[1]
        except Exception:
            reading = None
            raise

    for number, location in enumerate(locations):
        what = f"read {location.container}"
        try:
            yield retried(partial(next_of, locations[number:]), what=what, denied_is_final=False)
        except Exception as error:  # noqa: BLE001  of this container, unless the probe says otherwise
            yield confirm_image_error(error, storage_options, probe_uri)


def _tar(locations: Sequence[Location], storage_options: StorageOptions) -> Iterator[tuple[int, Fetched]]:
    # A member and hard links to it are neighbours, and read once.
    members = [(offset, len(list(same))) for offset, same in groupby(location.offset for location in locations)]
    counts = iter([count for _, count in members])
    for _, some in groupby(readings([offset for offset, _ in members]), itemgetter(0)):
        for member in read_tar_members(locations[0].container, [offset for _, offset in some], storage_options):
            yield from repeat(member, next(counts))


def _parquet(locations: Sequence[Location], storage_options: StorageOptions) -> Iterator[tuple[int, Fetched]]:
    column = locations[0].column
    assert column is not None, "planned with one"
    return read_parquet_rows(
        locations[0].container, column, [location.offset for location in locations], storage_options
    )


def _unzipped(image: SourceObject, data: Fetched) -> Fetched:
    if isinstance(data, Exception):
        return data
    assert image.size_bytes is not None, "a zip archive says it"
    try:
        return unzip_member(data, image.size_bytes)
    except ValueError as error:
        return error
