"""Names of the categories that masks of prompts have, and the ids under which exports write them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.errors import ConfigError, InputError, StorageUnavailableError
from sam_pipeline.results.results import Results
from sam_pipeline.safety.clean_text import is_encodable, one_line
from sam_pipeline.storage.inputs.file_numbers import ID_LIMIT, as_number, whole_number
from sam_pipeline.storage.objects.filesystem import StorageOptions, absolute_uri, join_uri
from sam_pipeline.storage.objects.object_reading import open_object, read_head, read_json
from sam_pipeline.storage.tables.plan import existing_plan
from sam_pipeline.storage.tables.prompts import read_prompts_header
from sam_pipeline.storage.tables.reading.result_reading import iterate_row_groups

logger = logging.getLogger(__name__)

OBJECT = "object"
"""The category of masks that have none, as those of the grid."""

_MAX_NAMES_BYTES = 64 << 20


@dataclass(frozen=True)
class Categories:
    """Categories by the id that masks are stored with, in the order of their file."""

    names: Mapping[int, str] = field(default_factory=dict)
    supercategories: Mapping[int, str] = field(default_factory=dict)
    """Supercategories of those that have one."""

    @cached_property
    def shift(self) -> int:
        """What export ids have more than those of the file."""
        # To COCO's readers an id of 0 is none; ids that are all above 0 stay as they are.
        return max(0, 1 - min(self.names, default=1))

    @cached_property
    def object_id(self) -> int:
        """The export id of masks without a category."""
        return max((*self.names, 0)) + self.shift + 1

    def export_id(self, category_id: int | None) -> int:
        """The id in an export, at least 1, of a stored category_id.

        Raises:
            ConfigError: the category has no name.
        """
        if category_id is None:
            return self.object_id
        if category_id not in self.names:
            raise ConfigError(
                f"category {category_id} has no name; give --categories a COCO file, a data.yaml, or a text file"
            )
        return category_id + self.shift

    def export_ids(self, category_ids: pa.Array) -> npt.NDArray[np.int64]:
        """The same for a column of stored ids, (N,) int64 with nulls.

        Raises:
            ConfigError: a category has no name.
        """
        distinct = category_ids.unique()
        exported = pa.array([self.export_id(each) for each in distinct.to_pylist()], pa.int64())
        places = pc.index_in(category_ids, value_set=distinct)
        found: npt.NDArray[np.int64] = exported.take(places).to_numpy()
        return found

    def name(self, category_id: int | None) -> str:
        """The name of a stored category_id; "object" for none, the number for one without a name."""
        return OBJECT if category_id is None else self.names.get(category_id, str(category_id))

    def exported(self, *, with_object: bool) -> list[dict[str, Any]]:
        """COCO's list of categories, with the ids of the export.

        Args:
            with_object: also the category of masks without one.
        """
        listed = [
            {"id": self.export_id(number), "name": name, "supercategory": self.supercategories.get(number, "")}
            for number, name in self.names.items()
        ]
        if with_object:
            listed.append({"id": self.object_id, "name": OBJECT, "supercategory": ""})
        return listed


def read_categories(
    results: Results, place: str | None = None, *, is_needed: bool = False, of_grid: bool = False
) -> Categories:
    """The categories of a run's prompts; none where all masks are of the grid, unless a place is given.

    Args:
        results: of the run.
        place: a COCO file with `categories`; a YAML file with `names`, as YOLO's data.yaml; or a text file with a name
            a line, of which the first has id 0, as YOLO's classes.txt. Default: what the run's prompts or images were
            read from, where that says names: a COCO file, or a folder of YOLO's labels with one of the files above.
        is_needed: raise if such a file cannot be read; otherwise log it and go on without names.
        of_grid: whether masks of the grid need them too, for an id of `object` that is none of the file's.

    Returns:
        Empty for a run whose sources name no categories.

    Raises:
        InputError: the file cannot be read, or holds no names.
        StorageUnavailableError: the storage did not answer.
    """
    options = results.storage_options
    if place is not None:
        return _read(absolute_uri(place), options)
    if not of_grid and _are_of_grid(results):
        return Categories()
    for uri in _sources(results):
        try:
            found = _found(uri, options)
        except InputError as error:  # moved since, or deleted; nobody has asked for it
            if is_needed:
                raise InputError(f"no names of categories: {error}; give categories a file that says them") from error
            logger.warning("no names of categories: %s", error)
            continue
        if found is not None:
            return found
    return Categories()


def read_names_to_show(results: Results, place: str | None = None) -> Categories:
    """The categories for display: without names if the storage of the default file does not answer.

    Arguments are those of read_categories.

    Raises:
        InputError: place cannot be read, or holds no names.
        StorageUnavailableError: the storage of place did not answer.
    """
    try:
        return read_categories(results, place)
    except StorageUnavailableError as error:
        if place is not None:
            raise
        logger.warning("no names of categories: %s", error)
        return Categories()


def used_category_ids(results: Results) -> set[int | None]:
    """The categories that stored masks have, None among them for masks without one; read from one small column.

    Of the selection, source and category_ids are looked at, its other settings are not.
    """
    if _are_of_grid(results):
        return {None}
    used: set[int | None] = set()
    for group in iterate_row_groups(results.table, results.storage_options):
        used.update(
            pc.list_flatten(group.read([], ["category_id"])["masks"]).combine_chunks().field(0).unique().to_pylist()
        )
    wanted = results.selection.category_ids
    return used & set(wanted) if wanted else used


def _are_of_grid(results: Results) -> bool:
    """Whether all masks that are shown are of the grid, and so without a category, whatever lies near the images."""
    settings = results.settings
    selections = [results.selection.effective(), *(each["selection"] for each in filters_of(settings))]
    return settings.get("mode") == "grid" or any(each.get("source") == "grid" for each in selections)


def _sources(results: Results) -> list[str]:
    """What the prompts of a run, and then its images, were read from."""
    plan = existing_plan(results.output, results.storage_options)
    prompts = read_prompts_header(results.output, results.storage_options, plan.generation)
    read_from = [] if prompts is None else [prompts.source.get("prompts"), prompts.source.get("prompt_images")]
    return [uri for uri in (*read_from, plan.input) if uri]


def _found(uri: str, options: StorageOptions) -> Categories | None:
    """The categories that a source of prompts or images says; None where it says none."""
    if uri.lower().endswith((".json", ".json.gz")):
        content = read_json(uri, options)
        return _of_coco(content, uri) if isinstance(content, dict) and content.get("categories") else None
    folder, _, name = uri.rpartition("/")
    if "." in name:
        return None
    for place in (join_uri(uri, "data.yaml"), join_uri(folder, "data.yaml"), join_uri(uri, "classes.txt")):
        if read_head(place, options, 1):
            return _read(place, options)
    return None


def _read(uri: str, options: StorageOptions) -> Categories:
    if uri.lower().endswith((".json", ".json.gz")):
        return _of_coco(read_json(uri, options), uri)
    with open_object(uri, options) as file:
        content = file.read(_MAX_NAMES_BYTES + 1)
    if len(content) > _MAX_NAMES_BYTES:
        raise InputError(f"cannot read categories from {uri}: more than {_MAX_NAMES_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read categories from {uri}: not text ({one_line(error)})") from None
    if uri.lower().endswith((".yaml", ".yml")):
        return _of_yaml(text, uri)
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _checked(enumerate(lines), {}, uri)


def _of_coco(content: Any, uri: str) -> Categories:
    entries = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{uri} has no list of categories, as a COCO file has")
    ids = [whole_number(as_number(entry.get("id"))) for entry in entries]
    above = {
        number: entry["supercategory"]
        for number, entry in zip(ids, entries, strict=True)
        if number is not None and isinstance(entry.get("supercategory"), str)
    }
    return _checked(zip(ids, (entry.get("name") for entry in entries), strict=True), above, uri)


def _of_yaml(text: str, uri: str) -> Categories:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"cannot read categories from {uri}: not YAML ({one_line(error)})") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return _checked(enumerate(names), {}, uri)
    if isinstance(names, dict):
        return _checked(((whole_number(as_number(key)), name) for key, name in names.items()), {}, uri)
    raise InputError(f"{uri} has no names, as YOLO's data.yaml has")


def _checked(pairs: Iterable[tuple[int | None, object]], supercategories: Mapping[int, str], uri: str) -> Categories:
    """Categories of ids and names.

    Raises:
        InputError: there are none; one has no id or name, or an id comes twice.
    """
    names: dict[int, str] = {}
    for number, name in pairs:
        name = str(name) if isinstance(name, int | float) else name  # a name such as 7 is a number to YAML
        if number is None or not isinstance(name, str) or not name.strip() or not is_encodable(name):
            raise InputError(
                f"categories of {uri}: each needs a whole number as its id, and a name; got {number!r}, {name!r}"
            )
        if number in names:
            raise InputError(f"categories of {uri}: the id {number} comes twice")
        names[number] = name
    if not names:
        raise InputError(f"no categories in {uri}")
    found = Categories(names, supercategories)
    if found.object_id >= ID_LIMIT:
        raise InputError(
            f"categories of {uri}: exports number them from 1, and so ids from {min(names)} to {max(names)} do not fit "
            "into 64 bits"
        )
    return found
