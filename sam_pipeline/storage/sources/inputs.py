"""An input of any kind → the table of images to plan."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from glob import has_magic

import pyarrow as pa

from sam_pipeline.config import InputFormat, PlanConfig
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.storage.filesystem import absolute_uri
from sam_pipeline.storage.sources.coco import coco_images
from sam_pipeline.storage.sources.files import IMAGE_SUFFIXES, file_images, list_files
from sam_pipeline.storage.sources.manifest import MANIFEST_SUFFIXES, TEXT_MANIFEST_SUFFIXES, manifest_images
from sam_pipeline.storage.sources.parquet_images import is_parquet_of_images, parquet_images
from sam_pipeline.storage.sources.parquet_reading import PARQUET_SUFFIXES
from sam_pipeline.storage.sources.selection import select
from sam_pipeline.storage.sources.source_image import SOURCE_SCHEMA
from sam_pipeline.storage.sources.source_options import SourceOptions
from sam_pipeline.storage.sources.tars import tar_images
from sam_pipeline.storage.sources.zips import zip_images

logger = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
ZIP_SUFFIXES = (".zip",)

_FORMATS_BY_SUFFIX: dict[tuple[str, ...], InputFormat] = {
    TAR_SUFFIXES: "webdataset",
    ZIP_SUFFIXES: "zip",
    TEXT_MANIFEST_SUFFIXES: "manifest",
    (".json",): "coco",
}


def list_input(config: PlanConfig) -> pa.Table:
    """List an input once and choose among its images as the configuration says.

    What was passed over (files that are no images, URIs that come twice, what patterns exclude) is counted in the log.

    Returns:
        (N,) rows of SOURCE_SCHEMA in the order of their URIs, each once.

    Raises:
        InputError: the input cannot be read, or nothing is left of it.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    assert config.input is not None, "checked by the caller"
    uri = absolute_uri(config.input)
    root = None if config.image_root is None else absolute_uri(config.image_root)
    options = SourceOptions(config.storage_options, config.input_column, root, config.keep, config.allow_http)
    chosen = select(
        pa.concat_tables([SOURCE_SCHEMA.empty_table(), *_images(uri, config.input_format, options)]),
        config.include,
        config.exclude,
        config.limit,
        config.sample,
        config.seed,
    )
    if chosen.num_twice:
        logger.info("%d URIs came more than once and are planned once", chosen.num_twice)
    if chosen.num_excluded:
        logger.info("%d images were left out by --include and --exclude", chosen.num_excluded)
    if not chosen.images.num_rows:
        raise InputError(f"no images are left of {config.input}")
    return chosen.images


def _images(uri: str, input_format: InputFormat, options: SourceOptions) -> Iterator[pa.Table]:
    if input_format == "auto":
        input_format = _format_of(uri, options)
    if input_format in ("files", "zip") and (options.keep or options.column is not None):
        raise ConfigError(f"keep and input_column are for inputs with columns; {uri} is read as {input_format}")
    num_skipped = 0

    def count_skipped(num_files: int) -> None:
        nonlocal num_skipped
        num_skipped += num_files

    match input_format:
        case "manifest":
            for part in _manifests(uri, options):
                yield from manifest_images(part, options)
        case "coco":
            yield from coco_images(uri, options)
        case "parquet":
            yield from parquet_images(list_files(uri, options.storage, PARQUET_SUFFIXES), options)
        case "webdataset":
            yield from tar_images(list_files(uri, options.storage, TAR_SUFFIXES), options, count_skipped)
        case "zip":
            yield from zip_images(list_files(uri, options.storage, ZIP_SUFFIXES), options, count_skipped)
        case _:
            for listing in file_images(uri, options.storage, IMAGE_SUFFIXES):
                count_skipped(listing.num_skipped)
                yield listing.images
    if num_skipped:
        logger.info("skipped %d files that are not images", num_skipped)


def _manifests(uri: str, options: SourceOptions) -> list[str]:
    """The parts of a manifest: most often one."""
    if uri.lower().endswith(MANIFEST_SUFFIXES) and not has_magic(uri):
        return [uri]
    return [file.uri for file in list_files(uri, options.storage, MANIFEST_SUFFIXES, what="manifests")]


def _format_of(uri: str, options: SourceOptions) -> InputFormat:
    """The format that the end of a URI stands for; what names no kind of container is files."""
    name = uri.lower()
    for suffixes, input_format in _FORMATS_BY_SUFFIX.items():
        if name.endswith(suffixes):
            return input_format
    if name.endswith(PARQUET_SUFFIXES):
        first = list_files(uri, options.storage, PARQUET_SUFFIXES)[0]
        return "parquet" if is_parquet_of_images(first.uri, options) else "manifest"
    return "files"
