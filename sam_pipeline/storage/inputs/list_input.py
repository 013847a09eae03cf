"""An input of any kind → the table of images to plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from sam_pipeline.config import InputFormat, PlanConfig
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.storage.inputs.containers.parquet_images import is_parquet_of_images, parquet_images
from sam_pipeline.storage.inputs.containers.parquet_reading import PARQUET_SUFFIXES
from sam_pipeline.storage.inputs.containers.tars import tar_images
from sam_pipeline.storage.inputs.containers.zips import zip_images
from sam_pipeline.storage.inputs.file_kinds import HEAD_BYTES, container_of, is_image_data
from sam_pipeline.storage.inputs.listing.files import IMAGE_SUFFIXES, NoFilesError, file_images, list_files
from sam_pipeline.storage.inputs.lists.coco import coco_images
from sam_pipeline.storage.inputs.lists.manifest import MANIFEST_SUFFIXES, TEXT_MANIFEST_SUFFIXES, manifest_images
from sam_pipeline.storage.inputs.selection import select
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceObject, SourceOptions
from sam_pipeline.storage.layout import table_uris
from sam_pipeline.storage.objects.filesystem import absolute_uri
from sam_pipeline.storage.objects.object_reading import read_head

logger = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
ZIP_SUFFIXES = (".zip",)
COCO_SUFFIXES = (".json", ".json.gz")

_FORMATS_BY_SUFFIX: dict[tuple[str, ...], InputFormat] = {
    TAR_SUFFIXES: "webdataset",
    ZIP_SUFFIXES: "zip",
    TEXT_MANIFEST_SUFFIXES: "manifest",
    COCO_SUFFIXES: "coco",
    PARQUET_SUFFIXES: "parquet",
}
_CONTAINERS: tuple[InputFormat, ...] = ("webdataset", "zip", "parquet")
_KINDS = {
    "images": IMAGE_SUFFIXES,
    "lists": TEXT_MANIFEST_SUFFIXES[::2],
    "Parquet": PARQUET_SUFFIXES,
    "archives": (".tar", ".tar.gz", *ZIP_SUFFIXES),
    "COCO": COCO_SUFFIXES[:1],
}


@dataclass(frozen=True)
class ListedInput:
    """What an input holds."""

    images: pa.Table
    """(N,) rows of SOURCE_SCHEMA in the order of their URIs, each once."""
    input_format: InputFormat
    """What it was read as: never auto."""


def list_input(config: PlanConfig) -> ListedInput:
    """List an input once and choose among its images as the configuration says.

    What was passed over (files that are no images, URIs that come twice, what patterns exclude) is counted in the log.

    Raises:
        InputError: the input cannot be read, is of no known kind, or nothing is left of it.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    assert config.images.input is not None, "checked by the caller"
    uri = absolute_uri(config.images.input)
    left_out = table_uris(absolute_uri(config.output))
    source_options = SourceOptions(config.storage_options, config.images, left_out)
    asked_for = config.images.input_format
    input_format = asked_for if asked_for != "auto" else _format_of(uri, source_options)
    try:
        found = list(_images(uri, input_format, source_options))
    except NoFilesError as error:
        if asked_for != "auto" or input_format != "files":
            raise
        input_format = _format_below(uri, source_options, error)
        found = list(_images(uri, input_format, source_options))
    chosen = select(pa.concat_tables([SOURCE_SCHEMA.empty_table(), *found]), config.selection)
    if chosen.num_twice:
        logger.info("%d URIs came more than once and are planned once", chosen.num_twice)
    if chosen.num_excluded:
        logger.info("%d images were left out by --include and --exclude", chosen.num_excluded)
    if not chosen.images.num_rows:
        raise InputError(f"no images are left of {config.images.input}")
    return ListedInput(chosen.images, input_format)


def _images(uri: str, input_format: InputFormat, source_options: SourceOptions) -> Iterator[pa.Table]:
    if input_format in ("files", "zip") and (
        source_options.images.keep or source_options.images.input_column is not None
    ):
        raise ConfigError(f"keep and input_column are for inputs with columns; {uri} is read as {input_format}")
    num_skipped, containers = 0, set[str]()

    def count_skipped(num_files: int) -> None:
        nonlocal num_skipped
        num_skipped += num_files

    def note_container(name: str) -> None:
        if (found := _format_by_suffix(name)) in _CONTAINERS:
            containers.add(found)

    match input_format:
        case "manifest":
            for part in _manifests(uri, source_options):
                yield from manifest_images(part, source_options)
        case "coco":
            yield from coco_images(uri, source_options)
        case "parquet":
            yield from parquet_images(_containers(uri, source_options, PARQUET_SUFFIXES), source_options)
        case "webdataset":
            yield from tar_images(_containers(uri, source_options, TAR_SUFFIXES), source_options, count_skipped)
        case "zip":
            yield from zip_images(_containers(uri, source_options, ZIP_SUFFIXES), source_options, count_skipped)
        case _:
            images = file_images(
                uri, source_options.storage, IMAGE_SUFFIXES, left_out=source_options.left_out, on_other=note_container
            )
            for listing in images:
                count_skipped(listing.num_skipped)
                yield listing.images
    if num_skipped:
        others = f"; --input-format {' or '.join(sorted(containers))} reads some of them" if containers else ""
        logger.info("skipped %d files that are not images%s", num_skipped, others)


def _manifests(uri: str, source_options: SourceOptions) -> list[str]:
    """The parts of a manifest: most often one, else those in a folder or of a pattern."""
    if read_head(uri, source_options.storage, 1) is not None:
        return [uri]
    return [file.uri for file in _containers(uri, source_options, MANIFEST_SUFFIXES, what="manifests")]


def _containers(
    uri: str, source_options: SourceOptions, suffixes: tuple[str, ...], *, what: str = "images"
) -> list[SourceObject]:
    return list_files(uri, source_options.storage, suffixes, what=what, left_out=source_options.left_out)


def _format_of(uri: str, source_options: SourceOptions) -> InputFormat:
    """The format of an input by the end of its URI, or by its first bytes; a folder is taken for one of images.

    Raises:
        InputError: it is a file of no known kind.
    """
    by_suffix = _format_by_suffix(uri)
    if by_suffix is not None:
        return _parquet_format(uri, source_options) if by_suffix == "parquet" else by_suffix
    head = read_head(uri, source_options.storage, HEAD_BYTES)
    if head is None:
        asks_for_columns = bool(source_options.images.keep) or source_options.images.input_column is not None
        return _format_below(uri, source_options, None) if asks_for_columns else "files"
    if uri.lower().endswith(IMAGE_SUFFIXES) or is_image_data(head):
        return "files"
    kinds = "; ".join(f"{what} ({', '.join(suffixes)})" for what, suffixes in _KINDS.items())
    container = container_of(head)
    hint = "" if container is None else f"; it begins as {container} does: --input-format says how to read it"
    raise InputError(f"cannot read {uri}: it is no image, nor a file that is called as one of these: {kinds}{hint}")


def _format_by_suffix(uri: str) -> InputFormat | None:
    return next((found for suffixes, found in _FORMATS_BY_SUFFIX.items() if uri.lower().endswith(suffixes)), None)


def _format_below(uri: str, source_options: SourceOptions, no_images: NoFilesError | None) -> InputFormat:
    """The one format of the archives or Parquet files in a folder, or of those that a pattern matches.

    Args:
        uri: of the folder, or the pattern.
        source_options: all are used.
        no_images: that there are no images in it; None if that is not known.

    Raises:
        InputError: there are several, or only lists.
    """
    suffixes = tuple(suffix for some in _FORMATS_BY_SUFFIX for suffix in some)
    try:
        files = _containers(uri, source_options, suffixes)
    except NoFilesError:
        if no_images is not None:
            raise no_images from None
        return "files"
    counts = Counter(_format_by_suffix(file.uri) for file in files)
    containers = [name for name in _CONTAINERS if counts[name]]
    if len(containers) != 1:
        there = ", ".join(f"{count} {name}" for name, count in counts.items())
        remedy = "name them by a pattern, or say with --input-format which to read"
        if not containers:
            remedy = f"if {files[0].uri} lists images, give it with --input"
        if no_images is None:
            raise InputError(f"keep and input_column need a list, or files with columns; {uri} has {there}: {remedy}")
        raise InputError(f"no images in {uri}, but files of other kinds ({there}): {remedy}") from no_images
    (input_format,) = containers
    logger.info("%s holds %d files to be read as %s", uri, counts[input_format], input_format)
    if input_format == "parquet":
        return _parquet_format(uri, source_options)
    return input_format


def _parquet_format(uri: str, source_options: SourceOptions) -> InputFormat:
    """Whether Parquet files hold images or name them, by the columns of the first."""
    first = _containers(uri, source_options, PARQUET_SUFFIXES)[0]
    return "parquet" if is_parquet_of_images(first.uri, source_options) else "manifest"
