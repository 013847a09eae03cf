"""Images named by a COCO annotation file: a JSON object with a list of `images`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.file_numbers import file_id
from sam_pipeline.storage.inputs.kept_values import checked_size, json_text
from sam_pipeline.storage.inputs.lists.named_uris import named_uris, names_of
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceOptions
from sam_pipeline.storage.objects.object_reading import read_json

_TABLE_ROWS = 65_536
_MAX_FIELDS_SHOWN = 20


def coco_images(uri: str, source_options: SourceOptions) -> Iterator[pa.Table]:
    """Read the images of an annotation file, which is held in memory.

    An image is found by its file_name, relative to image_root or else to the file's folder; or by its coco_url, if it
    has one, http is allowed and no image_root is given. Its extra is `{"coco_image_id": id, …}` with
    the fields to keep. An entry without a name or id, or with the id of an earlier one, becomes an image with an error,
    called file#row-N with N from 0.

    Args:
        uri: of the annotation file.
        source_options: storage is used, and of images keep, image_root and allow_http.

    Yields:
        Tables of SOURCE_SCHEMA with up to 65,536 rows, in the file's order.

    Raises:
        InputError: nothing there, not such a file, without images, or no image has a field to keep.
        ConfigError: of image_root.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    naming = named_uris(uri, source_options)
    entries = _entries(uri, source_options)
    _check_kept(uri, entries, source_options.images.keep)
    seen: set[int | str] = set()
    for first in range(0, len(entries), _TABLE_ROWS):
        some = entries[first : first + _TABLE_ROWS]
        names = names_of(_name(entry, source_options) for entry in some)
        extra = checked_size(pa.array([_extra(entry, source_options.images.keep) for entry in some], pa.string()))
        table = naming.table(names, first, extra)
        yield _with_errors(table, [_problem(entry, seen) for entry in some], f"{naming.list_uri}#row-", first)


def coco_image_id(extra: str | None) -> int | str | None:
    """The id that an image has in the annotation file that it came from, by its extra; None for any other image."""
    if extra is None or '"coco_image_id"' not in extra:
        return None
    fields = json.loads(extra)
    return file_id(fields.get("coco_image_id")) if isinstance(fields, dict) else None


def first_image_ids(images: object) -> dict[int | str, int | str]:
    """For each id in the `images` of a COCO file, the first id that names the same file: that one is planned.

    Files list an image several times where it has several captions. What is planned goes by coco_url where http is
    allowed, so both names must be the same. An id that comes twice counts once.
    """
    found: dict[int | str, int | str] = {}
    first_ids: dict[str, int | str] = {}
    for image in images if isinstance(images, list) else []:
        image_id = file_id(image.get("id")) if isinstance(image, dict) else None
        if image_id is None or image_id in found:
            continue
        names = image.get("file_name"), image.get("coco_url")
        is_named = any(isinstance(name, str) for name in names)
        found[image_id] = first_ids.setdefault(repr(names), image_id) if is_named else image_id
    return found


def _entries(uri: str, source_options: SourceOptions) -> list[Any]:
    content = read_json(uri, source_options.storage)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{uri} is not a COCO annotation file: {_what_it_is(content)}")
    if not entries:
        raise InputError(f"no images in {uri}: its list of images is empty")
    return entries


def _what_it_is(content: Any) -> str:
    """What JSON holds that has no list of images, and what to do with it."""
    if isinstance(content, dict):
        fields = ", ".join(map(repr, list(content)[:_MAX_FIELDS_SHOWN])) or "none"
        return f"it has no list `images`; its fields: {fields}"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, str):
        return "it is a list of text; if these are names of images, write one a line into a .txt file"
    if isinstance(first, dict) and "image_id" in first:
        return "it holds results; give it with --prompts, and with --input the images or the annotation file"
    if isinstance(first, dict):
        return "it is a list of objects; if these name images, write one a line into a .jsonl file"
    return "it has no list `images`"


def _check_kept(uri: str, entries: Sequence[Any], keep: Sequence[str]) -> None:
    fields = dict.fromkeys(name for entry in entries if isinstance(entry, dict) for name in entry) if keep else {}
    for name in keep:
        if name not in fields:
            raise InputError(f"no image in {uri} has a field {name!r}; their fields: {', '.join(map(repr, fields))}")


def _name(entry: Any, source_options: SourceOptions) -> object:
    if not isinstance(entry, dict):
        return None
    use_url = source_options.images.allow_http and source_options.images.image_root is None
    return (entry.get("coco_url") if use_url else None) or entry.get("file_name")


def _extra(entry: Any, keep: Sequence[str]) -> str | None:
    if not isinstance(entry, dict):
        return None
    return json_text({"coco_image_id": file_id(entry.get("id")), **{name: entry.get(name) for name in keep}})


def _problem(entry: Any, seen: set[int | str]) -> str | None:
    """What is wrong with an entry besides its name; its id joins those that were seen."""
    if not isinstance(entry, Mapping):
        return "the entry of the annotation file is not an object"
    image_id = file_id(entry.get("id"))
    if image_id is None:
        return "the entry of the annotation file has no id that is a number or text"
    if image_id in seen:
        return "the entry of the annotation file has the id of an earlier one"
    seen.add(image_id)
    return None


def _with_errors(table: pa.Table, problems: Sequence[str | None], row_name: str, first_row: int) -> pa.Table:
    if not any(problems):
        return table
    uris, errors = table["uri"].to_pylist(), table["error"].to_pylist()
    for row, problem in enumerate(problems):
        if problem is not None:
            uris[row], errors[row] = f"{row_name}{first_row + row}", problem
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns.update(uri=pa.array(uris, pa.string()), error=pa.array(errors, pa.string()))
    return pa.table(columns, schema=SOURCE_SCHEMA)
