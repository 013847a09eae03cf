"""Planning: list the input once and freeze it; later starts reuse what was frozen, or add to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.config import InputFormat, PlanConfig
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.errors import ConfigError
from sam_pipeline.pipeline.workers.limits import reading_limit
from sam_pipeline.process.supervised import num_restarts
from sam_pipeline.storage.inputs.first_images import check_first_images, spread_rows
from sam_pipeline.storage.inputs.list_input import ListedInput, list_input
from sam_pipeline.storage.inputs.listing.output_tables import check_apart
from sam_pipeline.storage.inputs.source_object import SourceObject, object_of_row
from sam_pipeline.storage.objects.filesystem import StorageOptions, absolute_uri
from sam_pipeline.storage.tables.output_folder import check_output
from sam_pipeline.storage.tables.plan import Plan, extend_plan, iterate_planned, read_plan, read_planned, write_plan
from sam_pipeline.storage.tables.prompts import announce_prompts, discard_prompts
from sam_pipeline.storage.tables.reading.run_header import read_header
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA

logger = logging.getLogger(__name__)

# Settings of how an input is listed. The plan keeps those that were given, and --extend takes them from it.
_KEPT = ("input_format", "input_column", "image_root", "keep", "allow_http", "include", "exclude")

# Those of them that decide which image a name of a list means.
_OF_NAMES = frozenset({"input_column", "image_root", "allow_http"})

# Settings that have an effect only when the input is listed.
_OF_LISTING = (*_KEPT, "limit", "sample", "seed")

# What tells that an image has changed.
_VERSIONS = ("size_bytes", "etag")

# Formats that name images which are elsewhere, and tell neither size nor ETag of them.
_LISTS: tuple[InputFormat, ...] = ("manifest", "coco")


def ensure_plan(config: PlanConfig) -> Plan:
    """Return the plan of an output, making it when there is none, and adding to it when asked.

    Raises:
        ConfigError: there is no plan and no input; the plan is of another input; input and output would mix; or a plan
            that is to be made anew has results.
        InputError: the input cannot be listed or holds no image, or none of the first can be read.
        OutputError: the plan cannot be written, or something else stands where the tables are to be.
        FencedError: another start planned meanwhile.
    """
    output, options = absolute_uri(config.output), config.storage_options
    check_output(output, options)
    plan = read_plan(output, options)
    if config.images.input is not None and (plan is None or config.extend or config.replan):
        check_apart(absolute_uri(config.images.input), output, options)
    if plan is None:
        if config.images.input is None:
            raise ConfigError(f"{config.output} has no plan yet: say which images with --input")
        return _planned(output, config, None)
    # After a lost cluster the same command runs again. If there are results then, its earlier attempt has already
    # replanned.
    if config.replan and not (num_restarts() and _num_results(plan, config)):
        return _planned_anew(plan, config)
    if config.images.input is not None and absolute_uri(config.images.input) != plan.input:
        raise ConfigError(
            f"{config.output} was planned from {plan.input}, not {config.images.input}; use another --output, or "
            "--replan while there are no results"
        )
    if config.extend:
        return _extended(plan, config)
    if ignored := [name for name in _OF_LISTING if name in config.given()]:
        logger.info(
            "the plan of %s is frozen with %d images; given now, and not followed: %s",
            config.output,
            plan.num_images,
            ", ".join(ignored),
        )
    return plan


def _planned(output: str, config: PlanConfig, replaced: Plan | None) -> Plan:
    """Make a plan, perhaps in the place of another."""
    assert config.images.input is not None, "checked by the caller"
    options = config.storage_options
    with reading_limit():
        found = list_input(config)
    check_first_images(found, config.images.input, options)
    if replaced is not None:
        _stop_runs_without_results(replaced, config)
    if config.prompting.is_given:
        announce_prompts(output, options, 1 if replaced is None else replaced.generation + 1)
    listing = _listing_of(config, found.input_format)
    return write_plan(
        output, absolute_uri(config.images.input), found.images, options, replaced=replaced, listing=listing
    )


def _planned_anew(plan: Plan, config: PlanConfig) -> Plan:
    """Make a plan in the place of one that has no results.

    The order makes it safe: the plan was read first, then earlier runs are stopped, then it is seen that they left no
    results. A run that begins later confirms its plan before it does anything, by a commit after which the new plan
    cannot be committed; or the new plan is there before, and then the run stops.
    """
    _check_no_results(plan, config)
    made = _planned(plan.output, config, plan)
    if not config.prompting.is_given:
        discard_prompts(plan.output, config.storage_options, made.generation)
    logger.info("%s was planned anew", config.output)
    return made


def _stop_runs_without_results(plan: Plan, config: PlanConfig) -> None:
    if read_header(plan.output, config.storage_options) is not None:
        MaskTable.stop_runs(plan.output, config.storage_options)
        _check_no_results(plan, config)


def _check_no_results(plan: Plan, config: PlanConfig) -> None:
    if num_images := _num_results(plan, config):
        raise ConfigError(
            f"{config.output} has results of {num_images} images, so its plan stays: leave --replan out to go on, or "
            "use another --output"
        )


def _num_results(plan: Plan, config: PlanConfig) -> int:
    header = read_header(plan.output, config.storage_options)
    return 0 if header is None else header.num_images


def _extended(plan: Plan, config: PlanConfig) -> Plan:
    options = config.storage_options
    config = _listed_as_before(config, plan)
    planned = pa.concat_tables(iterate_planned(plan, ["image_id", "uri", "size_bytes", "etag"], options))
    if config.redo_changed and all(planned[name].null_count == planned.num_rows for name in _VERSIONS):
        raise ConfigError(
            f"--redo-changed cannot tell which images of {plan.input} have changed: a list gives their names alone, "
            "without size or ETag; leave it out"
        )
    with reading_limit():
        listed = list_input(config)
    listing, seen = _listing_of(config, listed.input_format), _compared(listed.images, planned)
    if listed.input_format in _LISTS and seen.new.num_rows:
        _check_names(ListedInput(seen.new, listed.input_format), seen.num_again, plan, config, listing)
    _log_changes(plan, listing)
    _log_images(seen, planned.num_rows, config)
    changed = seen.changed
    if not config.redo_changed:
        if changed.num_rows:
            logger.warning("what has changed keeps its masks; --redo-changed annotates it again")
        changed = changed.slice(0, 0)
    elif changed.num_rows and read_header(plan.output, options) is not None:
        # Delete the rows first: if this is killed in between, the next start finds the same images changed.
        MaskTable.stop_runs(plan.output, options).delete_images(changed["image_id"].to_numpy())
    return extend_plan(plan, seen.new, changed, options, listing=listing or None)


@dataclass(frozen=True)
class _Compared:
    """An input as it is listed now, beside the plan."""

    new: pa.Table
    """Images that are not planned, of SOURCE_SCHEMA."""
    changed: pa.Table
    """Planned images with another size or ETag now, of IMAGES_SCHEMA."""
    num_again: int
    """Planned images that are still there."""
    num_unknown: int
    """Of these, images of which the plan or the listing has neither size nor ETag."""


def _compared(found: pa.Table, planned: pa.Table) -> _Compared:
    """Compare what was found, of SOURCE_SCHEMA, with what is planned."""
    # Two gigabytes of names are too many for one array of strings.
    uris, planned_uris = (table["uri"].cast(pa.large_string()) for table in (found, planned))
    positions = pc.index_in(uris, value_set=planned_uris.combine_chunks())
    is_new = pc.is_null(positions)
    again = found.filter(pc.invert(is_new))
    before = planned.select(["image_id", *_VERSIONS]).take(positions.drop_null())
    differs = pc.or_(*(pc.fill_null(pc.not_equal(again[name], before[name]), False) for name in _VERSIONS))
    unknown = pc.and_(*(pc.or_(again[name].is_null(), before[name].is_null()) for name in _VERSIONS))
    return _Compared(
        new=found.filter(is_new),
        changed=again.add_column(0, IMAGES_SCHEMA.field("image_id"), before["image_id"]).filter(differs),
        num_again=again.num_rows,
        num_unknown=pc.sum(unknown).as_py() or 0,
    )


def _log_images(seen: _Compared, num_planned: int, config: PlanConfig) -> None:
    num_gone = num_planned - seen.num_again
    gone = "gone, or left out now" if config.selection.include or config.selection.exclude else "gone"
    unknown = f"; {seen.num_unknown} have no size or ETag in the plan and were not compared" if seen.num_unknown else ""
    logger.info("%d new images, %d changed, %d %s%s", seen.new.num_rows, seen.changed.num_rows, num_gone, gone, unknown)


def _check_names(new: ListedInput, num_again: int, plan: Plan, config: PlanConfig, listing: Mapping[str, Any]) -> None:
    """Refuse new images of a list that are probably planned ones: other settings now turn their names into other URIs.

    Raises:
        ConfigError: the list names no planned image any more, and settings that resolve names differ from the plan's.
        InputError: none of the new images can be read, and something speaks for wrong names.
    """
    assert config.images.input is not None, "extend needs it"
    # An earlier version did not say how names were taken.
    is_otherwise = plan.listing is not None and bool(_OF_NAMES & _differences(plan.listing, listing).keys())
    if is_otherwise and not num_again:
        raise ConfigError(
            f"{config.images.input} names none of the {plan.num_images} planned images now, but {new.images.num_rows} "
            "others: give the --image-root, --input-column or --allow-http that the plan was made with; or, for other "
            "images, another --output"
        )
    # A single damaged image becomes a row with an error, as any other.
    if new.images.num_rows > 1 and (is_otherwise or not num_again):
        check_first_images(new, config.images.input, config.storage_options)


def _listed_as_before(config: PlanConfig, plan: Plan) -> PlanConfig:
    """The configuration, with settings of the listing that were not given taken from the plan."""
    given = config.given()
    taken = {name: value for name, value in (plan.listing or {}).items() if name not in given}
    if taken:
        logger.info("listing the input with the plan's own settings: %s", _shown(taken))
    return settings_by_name(type(config), taken | given)


def _listing_of(config: PlanConfig, input_format: InputFormat) -> dict[str, Any]:
    """The settings of the listing that were given, or taken from the plan, as JSON has them."""
    listing = {name: value for name, value in config.given().items() if name in _KEPT}
    root = listing.pop("image_root", None)
    if root is not None and input_format in _LISTS:  # else nobody has looked whether it holds a credential
        listing["image_root"] = (root if "://" in root else absolute_uri(root)).rstrip("/")
    return _as_json(listing)


def _log_changes(plan: Plan, listing: Mapping[str, Any]) -> None:
    """Say which settings the input is listed with that the plan does not have."""
    if plan.listing is None:  # an earlier version made it, and did not keep them
        return
    if changed := _differences(plan.listing, listing):
        logger.info("listing the input with settings that the plan did not have, and has now: %s", _shown(changed))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What is set otherwise now; what was not given is at its default, or is found in the input."""
    known = _as_json(PlanConfig(output="-").by_name()) | dict(before)
    return {name: value for name, value in now.items() if value != known[name] and value != "auto"}


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON: lists in the place of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def sample_images(plan: Plan, options: StorageOptions) -> Iterator[SourceObject]:
    """Some images spread over a plan, each read from it only when it is asked for."""
    for image_id in spread_rows(plan.num_images):
        (row,) = read_planned(plan.output, [image_id], options).to_pylist()
        yield object_of_row(row)
