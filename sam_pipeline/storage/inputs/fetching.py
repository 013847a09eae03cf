"""Fetching objects and ranges of them: errors of one image are answers, errors of the storage are raised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import tenacity

from sam_pipeline.errors import ConfigError, InputError, InternalAddressError, SamPipelineError, StorageUnavailableError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.safety.regular_files import NotRegularFileError
from sam_pipeline.safety.uri_rules import HTTP_SCHEMES
from sam_pipeline.storage.inputs.listing.files import object_of_info
from sam_pipeline.storage.inputs.name_forms import other_forms
from sam_pipeline.storage.inputs.source_object import MAX_IMAGE_BYTES, SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem, protocol_of
from sam_pipeline.storage.objects.ranges import read_ranges
from sam_pipeline.storage.objects.retry_listeners import tell_retry
from sam_pipeline.storage.objects.retrying import (
    RANGE_NOT_SATISFIABLE,
    ErrorKind,
    error_kind,
    http_status,
    is_denied,
    is_transient,
    retried,
)

FETCH_LIMIT_S = 240.0
"""Seconds that an object may take, in each of two tries; a run waits for progress more than twice as long."""

_ATTEMPTS = 6
_MAX_ROUNDS = 20
Fetched = bytes | Exception


class ChangedError(Exception):
    """The object is not the one that was planned."""


class TooLargeToFetchError(Exception):
    """The object is larger than the limit; what was read of it is dropped."""


class RefusedError(Exception):
    """The image must not, or cannot, be asked for; the message says why."""


class _Limits(NamedTuple):
    """The most bytes of an image of unknown size, and the most seconds of any image."""

    max_bytes: int
    limit_s: float


_SETTLED = (
    bytes,
    FileNotFoundError,
    IsADirectoryError,
    NotRegularFileError,
    ChangedError,
    TooLargeToFetchError,
    InternalAddressError,
)


def fetch(
    images: Sequence[SourceObject],
    storage_options: StorageOptions,
    probe_uri: str | None,
    *,
    max_bytes: int | None = None,
    limit_s: float = FETCH_LIMIT_S,
) -> list[Fetched]:
    """Fetch objects, or ranges of them, in parallel from the filesystem that the first URI names.

    An error may concern one image (a damaged object, no permission for one key) or the storage (an outage, expired
    credentials). The probe decides. An error is the image's only if it was left after two rounds of retries, and the
    probe could be read at once after both. Otherwise this waits until the probe can be read again.

    Args:
        images: as planned: objects, or ranges of containers, which come as they are stored.
        storage_options: of the storage.
        probe_uri: an image that could be read when the run began, from find_probe. Without one every error that is
            left after the retries is the image's answer.
        max_bytes: of an image whose size is not planned; None: MAX_IMAGE_BYTES, which holds for the others.
        limit_s: seconds in which an image must come.

    Returns:
        For each image its bytes, whose number is as planned, or what is wrong with it: FileNotFoundError,
        PermissionError, NotRegularFileError, ChangedError, TooLargeToFetchError, TooSlowError, or another error that
        only this image has.

    Raises:
        InputError: access is denied to the probe too.
        StorageUnavailableError: the probe did not answer for two minutes either.
    """
    answers: dict[str, Fetched] = {}
    confirmations = 0
    limits = _Limits(max_bytes or MAX_IMAGE_BYTES, limit_s)
    for _ in range(_MAX_ROUNDS):
        _fetch_patiently(images, storage_options, answers, limits)
        if all(isinstance(answers[image.uri], _SETTLED) for image in images):
            break
        confirmations = confirmations + 1 if probe_uri is None or wait_for_probe(probe_uri, storage_options) else 0
        if confirmations == 2:
            break
    else:
        raise StorageUnavailableError(f"storage failed {_MAX_ROUNDS} times in a row; the same command resumes")
    return [answers[image.uri] for image in images]


def find_probe(images: Iterable[SourceObject], storage_options: StorageOptions) -> str | None:
    """The first of some images whose object can be read; for the driver, once, at the start.

    Names that a list gives are tried in their other forms, as when images are fetched. Images on the web are no probe,
    since each host may be down by itself.

    Returns:
        The object's URI; None if all that were tried are gone.

    Raises:
        InputError: none can be read, although not all are gone.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    failure: Exception | None = None
    for uri in _objects(images):
        try:
            retried(partial(_probe, uri, storage_options), what=f"read {uri}")
            return uri
        except (FileNotFoundError, IsADirectoryError):
            continue
        except ConfigError as error:  # a list may name a store whose driver is not installed
            failure = error
        except SamPipelineError:
            raise
        except Exception as error:  # noqa: BLE001  raised below, unless a later image can be read
            failure = error
            if error_kind(error) is ErrorKind.BAD_CREDENTIALS:
                break
    if failure is not None:
        raise InputError(f"cannot read the images ({uri}): {one_line(failure)}") from failure
    return None


def other_names(image: SourceObject) -> Iterator[str]:
    """Other forms of a name that a list gives, which may be wrong; a name from a listing, with its size, has none."""
    if image.location is None and image.size_bytes is None and protocol_of(image.uri) not in HTTP_SCHEMES:
        yield from other_forms(image.uri)


def _objects(images: Iterable[SourceObject]) -> Iterator[str]:
    """URIs of the objects that may be a probe, each followed by the other forms of its name."""
    for image in images:
        uri = _object_uri(image)
        if image.error is None and protocol_of(uri) not in HTTP_SCHEMES:
            yield uri
            yield from other_names(image)


def check_container(image: SourceObject, storage_options: StorageOptions, probe_uri: str | None) -> Exception | None:
    """Whether the container of an image is the one that was planned.

    Returns:
        None if it is, else what is wrong with it: FileNotFoundError, ChangedError, or another error of it alone.

    Raises:
        InputError, StorageUnavailableError: as in fetch.
    """
    uri = _object_uri(image)
    filesystem, path = open_filesystem(uri, storage_options)

    def look() -> SourceObject:
        filesystem.invalidate_cache()
        return object_of_info(filesystem, filesystem.info(path))

    try:
        now = retried(look, what=f"read {uri}", denied_is_final=False)
    except Exception as error:  # noqa: BLE001  of this container, unless the probe says otherwise
        return confirm_image_error(error, storage_options, probe_uri)
    if image.etag not in (None, now.etag):
        return ChangedError(f"{uri} was planned with ETag {image.etag}, now {now.etag}")
    return None


def confirm_image_error(error: Exception, storage_options: StorageOptions, probe_uri: str | None) -> Exception:
    """Return the error of an image or container once the probe could be read, so that it is not the storage's.

    Raises:
        SamPipelineError: the error is one.
        InputError, StorageUnavailableError: the probe cannot be read either.
    """
    if isinstance(error, SamPipelineError):
        raise error
    if probe_uri is not None and not isinstance(error, (FileNotFoundError, IsADirectoryError)):
        wait_for_probe(probe_uri, storage_options)
    return error


def _object_uri(image: SourceObject) -> str:
    return image.uri if image.location is None else image.location.container


def _probe(uri: str, storage_options: StorageOptions) -> None:
    """Read one byte of an object, by GET: the answer to a HEAD would not say what is wrong."""
    filesystem, path = open_filesystem(uri, storage_options)
    try:
        filesystem.cat_file(path, start=0, end=1)
    except OSError as error:
        if http_status(error) != RANGE_NOT_SATISFIABLE:  # an empty object, which is as good
            raise


def wait_for_probe(probe_uri: str, storage_options: StorageOptions) -> bool:
    """Wait until the probe can be read; whether the first attempt was enough.

    Raises:
        InputError: access to it is denied.
        StorageUnavailableError: it did not answer for two minutes.
    """
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        _probe(probe_uri, storage_options)

    try:
        retried(attempt, what=f"read {probe_uri}", denied_is_final=False)
    except FileNotFoundError:
        pass  # deleted since: the storage answers, and lets us in
    except Exception as error:
        if not is_denied(error):
            raise
        raise InputError(
            f"access was denied to {probe_uri}, which could be read before ({one_line(error)}); "
            "renew the credentials; the same command resumes"
        ) from error
    return attempts == 1


@tenacity.retry(
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
    retry=tenacity.retry_if_result(bool),
    before_sleep=lambda _: tell_retry("read"),
    retry_error_callback=lambda _: None,
)
def _fetch_patiently(
    images: Sequence[SourceObject], storage_options: StorageOptions, answers: dict[str, Fetched], limits: _Limits
) -> bool:
    """Fetch what has no settled answer yet; whether a transient error is left."""
    unsettled = [image for image in images if not isinstance(answers.get(image.uri), _SETTLED)]
    if unsettled:
        answers.update(_cat(list({image.uri: image for image in unsettled}.values()), storage_options, limits))
    return any(isinstance(answer, Exception) and is_transient(answer) for answer in answers.values())


def _cat(
    images: Sequence[SourceObject], storage_options: StorageOptions, limits: _Limits
) -> Iterator[tuple[str, Fetched]]:
    try:
        filesystem, _ = open_filesystem(_object_uri(images[0]), storage_options)
    except ConfigError as error:
        yield from ((image.uri, RefusedError(one_line(error))) for image in images)
        return
    wanted, paths = [], []
    for image in images:
        path = filesystem._strip_protocol(_object_uri(image))
        size_bytes, most = image.size_bytes, MAX_IMAGE_BYTES
        if size_bytes is None:
            size_bytes, most = _size_on_disk(filesystem, path), limits.max_bytes
        if size_bytes > most:
            yield image.uri, TooLargeToFetchError(f"{size_bytes} bytes, the limit is {most}")
        elif image.location is not None and image.location.length == 0:
            yield image.uri, b""  # a range without bytes cannot be asked for: the server would send everything
        else:
            wanted.append(image)
            paths.append(path)
    if not wanted:
        return
    # One byte more than planned shows that an object has grown, without loading what it has become. A range also
    # spares the HEAD with which s3fs begins otherwise. An empty object has no ranges.
    ranges = [_byte_range(image, limits.max_bytes) for image in wanted]
    answers = read_ranges(filesystem, paths, ranges, limits.limit_s)
    for image, path, answer in zip(wanted, paths, answers, strict=True):
        yield image.uri, _compared(filesystem, path, image, answer, limits.max_bytes)


def _size_on_disk(filesystem: Any, path: str) -> int:
    """The size of a local file; 0 for anything else, and for a file that is missing, which reading it will show."""
    if "file" in filesystem.protocol:
        with suppress(OSError):
            return int(filesystem.info(path)["size"])
    return 0


def _byte_range(image: SourceObject, max_bytes: int) -> tuple[int | None, int | None]:
    if image.location is not None:
        assert image.location.length is not None, "a range has an end"
        return image.location.offset, image.location.offset + image.location.length
    if image.size_bytes is None:
        return 0, max_bytes + 1
    return (0, image.size_bytes + 1) if image.size_bytes else (None, None)


def _compared(filesystem: Any, path: str, planned: SourceObject, answer: Fetched, max_bytes: int) -> Fetched:
    """The answer if it has the planned length; else an error that says what became of the object."""
    if isinstance(answer, Exception) and http_status(answer) != RANGE_NOT_SATISFIABLE:
        return answer
    num_bytes = len(answer) if isinstance(answer, bytes) else 0
    num_planned = planned.size_bytes if planned.location is None else planned.location.length
    if num_planned is None:
        if num_bytes > max_bytes:
            return TooLargeToFetchError(f"more than {max_bytes} bytes")
        return answer if isinstance(answer, bytes) else b""  # of an empty object there is no range
    if isinstance(answer, bytes) and num_bytes == num_planned:
        return answer
    try:
        filesystem.invalidate_cache()
        now = object_of_info(filesystem, filesystem.info(path))
    except Exception as error:  # noqa: BLE001  sorted by the caller like any other answer
        return error
    if planned.location is None and now.size_bytes != num_planned:
        return ChangedError(f"planned with {planned.size_bytes} bytes, now {now.size_bytes}")
    if planned.etag not in (None, now.etag):
        return ChangedError(f"planned with ETag {planned.etag}, now {now.etag}")
    return ConnectionError(f"{num_bytes} of {num_planned} bytes came")
