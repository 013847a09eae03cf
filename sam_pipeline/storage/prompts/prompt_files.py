"""Prompts and regions from a file, or a folder of files, of any kind, in parts of bounded size."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.containers.parquet_reading import PARQUET_SUFFIXES
from sam_pipeline.storage.inputs.listing.files import list_files
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.prompts.coco_prompts import coco_prompts
from sam_pipeline.storage.prompts.json_line_prompts import json_line_prompts
from sam_pipeline.storage.prompts.parquet_prompts import parquet_prompts
from sam_pipeline.storage.prompts.prompt_rows import PromptOptions
from sam_pipeline.storage.prompts.prompt_values import prompt_row, region_row
from sam_pipeline.storage.prompts.yolo_labels import LABEL_SUFFIX, yolo_prompts

JSON_LINE_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
COCO_SUFFIXES = (".json", ".json.gz")
_SUFFIXES = (*COCO_SUFFIXES, *JSON_LINE_SUFFIXES, *PARQUET_SUFFIXES, LABEL_SUFFIX)

logger = logging.getLogger(__name__)


def read_prompts(uri: str, prompt_options: PromptOptions) -> Iterator[pa.Table]:
    """Read the prompts of a file. With min_score, those that have a lower score or none are left out.

    A prompt that cannot be used becomes a row with an error. If it has no score either, it stays: the error may be in
    the score. COCO's files are held in memory as a whole; of all others, one table of rows.

    Args:
        uri: of COCO results or annotations (.json, .json.gz), JSON Lines, Parquet, or a folder of YOLO labels (.txt).
        prompt_options: all are used.

    Yields:
        Tables of KEYED_PROMPTS with up to 65,536 rows, in the file's order.

    Raises:
        InputError: nothing there, not of its format, without rows, without a column that is needed, or without any
            score although min_score is given.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    min_score = prompt_options.prompting.min_score
    num_rows = num_scores = num_left_out = 0
    for part in _read(uri, prompt_options, are_regions=False):
        num_rows += part.num_rows
        if min_score is None:
            yield part
            continue
        num_scores += part.num_rows - part["score"].null_count
        is_unknown = pc.and_(part["score"].is_null(), part["error"].is_valid())
        is_enough = pc.fill_null(pc.greater_equal(part["score"], min_score), False)
        kept = part.filter(pc.or_(is_unknown, is_enough))
        num_left_out += part.num_rows - kept.num_rows
        yield kept
    if not num_rows:
        raise InputError(f"no prompts in {uri}")
    if min_score is not None and not num_scores:
        raise InputError(f"min_score needs scores, {uri} has none")
    if num_left_out:
        logger.info("%d prompts have a score below %g, or none, and are left out", num_left_out, min_score)


def read_regions(uri: str, prompt_options: PromptOptions) -> Iterator[pa.Table]:
    """Read regions of interest from the same kinds of files: polygon, or segmentation in COCO files, or else bbox.

    Yields and raises what read_prompts does; scores are not looked at.
    """
    num_rows = 0
    for part in _read(uri, prompt_options, are_regions=True):
        num_rows += part.num_rows
        yield part
    if not num_rows:
        raise InputError(f"no regions in {uri}")


def list_prompt_files(uri: str, storage_options: StorageOptions) -> list[SourceObject]:
    """The files that prompts are read from, with what changes when they do: one, or all labels of a folder.

    Raises:
        InputError: nothing there, or several files that are no labels, or a file of no known kind.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    if _holds_labels(uri):
        files = list_files(uri, storage_options, (LABEL_SUFFIX,), what="YOLO labels")
    else:
        files = list_files(uri, storage_options, _SUFFIXES, what="prompts")
        if len(files) > 1:
            raise InputError(f"prompts are one file, or a folder of YOLO labels: {uri} names {len(files)} files")
    # A file named outright is listed whatever its suffix.
    if not files[0].uri.lower().endswith(_SUFFIXES):
        raise InputError(
            f"cannot tell what kind of prompts {uri} holds: it is no folder and ends in none of {', '.join(_SUFFIXES)}"
        )
    return files


def _read(uri: str, prompt_options: PromptOptions, *, are_regions: bool) -> Iterator[pa.Table]:
    make = partial(region_row if are_regions else prompt_row, bbox_format=prompt_options.prompting.bbox_format)
    if _holds_labels(uri):
        return yolo_prompts(list_prompt_files(uri, prompt_options.storage), uri, prompt_options.storage)
    name = uri.lower()
    if name.endswith(COCO_SUFFIXES):
        return coco_prompts(uri, prompt_options, make, are_regions=are_regions)
    if name.endswith(JSON_LINE_SUFFIXES):
        return json_line_prompts(uri, prompt_options.storage, make, are_regions=are_regions)
    return parquet_prompts(uri, prompt_options, make, are_regions=are_regions)


def _holds_labels(uri: str) -> bool:
    """Whether it seems to be a folder of labels: no suffix of other kinds. Folders may have dots in their names."""
    return uri.lower().endswith(LABEL_SUFFIX) or not uri.lower().endswith(_SUFFIXES)
