"""Prompts from COCO's results (a list) and annotations (an object with images and annotations)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.file_numbers import as_number, file_id, whole_number
from sam_pipeline.storage.inputs.lists.coco import first_image_ids
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.object_reading import read_json
from sam_pipeline.storage.prompts.image_names import names_by_id
from sam_pipeline.storage.prompts.prompt_rows import MakeRow, PromptOptions, Row, row_tables

logger = logging.getLogger(__name__)


def coco_prompts(uri: str, prompt_options: PromptOptions, make: MakeRow, *, are_regions: bool) -> Iterator[pa.Table]:
    """Read COCO's JSON, which is held in memory. See prompt_files.read_prompts.

    An image goes by its file_name in `images`, or else by its image_id. If the images were planned from the same file,
    it always goes by its image_id: by the first one, which is planned, where several name one file. The prompt_id is
    the annotation's id, or else its position. Ids are the same as number, as text and as a float: 7, "7", 7.0.
    """
    return row_tables(_rows(uri, prompt_options, make, are_regions=are_regions))


def _rows(uri: str, prompt_options: PromptOptions, make: MakeRow, *, are_regions: bool) -> Iterator[Row]:
    entries, images = _content(uri, prompt_options.storage)
    other_ids: list[object] = []
    is_planned = uri == prompt_options.planned_from
    names = {} if is_planned else names_by_id(images)
    planned_ids = {str(each): first for each, first in first_image_ids(images).items()} if is_planned else {}
    for position, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        known_id = file_id(fields.get("image_id"))
        name = names.get(str(known_id))
        own_id = whole_number(as_number(fields.get("id")))
        if own_id is None or own_id < 0:
            own_id = position
            if fields.get("id") is not None:
                other_ids.append(fields["id"])
        for part in _polygons(fields) if are_regions else [fields]:
            yield make(name or planned_ids.get(str(known_id), known_id), own_id, part) | {"is_image_id": not name}
    if other_ids:
        logger.warning(
            "%d annotations of %s have an id that is no whole number, or below 0, such as %.40r; their "
            "prompt_id is the position in the file, from 0",
            len(other_ids),
            uri,
            other_ids[0],
        )


def _content(uri: str, storage_options: StorageOptions) -> tuple[list[Any], object]:
    """The annotations, and the images."""
    content = read_json(uri, storage_options)
    if isinstance(content, list):
        return content, None
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{uri} holds neither COCO results, a list, nor an object with a list of annotations")
    return entries, content.get("images")


def _polygons(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The polygons of an annotation's segmentation, each by itself; run lengths have none, so bbox is used."""
    segmentation = fields.get("segmentation")
    if not isinstance(segmentation, list) or not any(isinstance(flat, list) for flat in segmentation):
        return [fields]
    return [{"polygon": _pairs(flat)} for flat in segmentation]


def _pairs(flat: object) -> object:
    """[x, y, x, y, …] → [[x, y], …]; anything else is no polygon, and refused as that."""
    if not isinstance(flat, list) or len(flat) % 2:
        return "no pairs"
    return [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
