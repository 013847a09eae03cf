"""What is to be found in each image: the masks of a grid of points, of prompts frozen with the plan, or both."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.config import AnnotateConfig, PlanConfig, PromptConfig, ResolvedMode
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.masks.prompts import Role
from sam_pipeline.pipeline.workers.limits import reading_limit
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions, absolute_uri
from sam_pipeline.storage.prompts.image_names import list_image_names, read_image_names, with_image_names
from sam_pipeline.storage.prompts.matching import match_images, why_none_match
from sam_pipeline.storage.prompts.point_grid_files import PointGrids, read_point_grids
from sam_pipeline.storage.prompts.prompt_files import list_prompt_files, read_prompts, read_regions
from sam_pipeline.storage.prompts.prompt_rows import PromptOptions
from sam_pipeline.storage.tables.plan import Plan, iterate_planned
from sam_pipeline.storage.tables.prompts import (
    Prompts,
    Source,
    announce_prompts,
    announced_generation,
    discard_prompts,
    extend_prompts,
    read_prompts_header,
    write_prompts,
)
from sam_pipeline.storage.tables.reading.run_header import read_header
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Targets:
    """What is to be found, resolved."""

    mode: ResolvedMode
    prompts: Prompts | None
    point_grids: PointGrids | None

    @property
    def pinned(self) -> dict[str, Any]:
        """The part of it that is pinned in the fingerprint."""
        return {
            "mode": self.mode,
            "prompts_sha256": None if self.prompts is None else self.prompts.sha256,
            "point_grid_sha256": None if self.point_grids is None else self.point_grids.sha256,
        }

    @property
    def layers(self) -> tuple[NDArray[np.float64], ...] | None:
        """The point grids of a file."""
        return None if self.point_grids is None else self.point_grids.layers


def resolve_targets(config: AnnotateConfig, plan: Plan) -> Targets:
    """What a run is to find. Its prompts are frozen only once its mode and its grid are known to be right.

    Raises:
        ConfigError: a mode without what it needs, or a point grid that is none.
        SamPipelineError: see ensure_prompts.
    """
    given = _given_prompts(config, plan)
    mode = _resolved_mode(config, given)
    grids = None
    if config.point_grid is not None:
        num_layers = config.masks.crop_n_layers + 1
        with reading_limit():
            grids = read_point_grids(absolute_uri(config.point_grid), num_layers, config.storage_options)
    return Targets(mode, _frozen(given, config, plan), grids)


def ensure_prompts(config: PlanConfig, plan: Plan) -> Prompts | None:
    """Return the prompts of a planned run, freezing them when they are given for the first time.

    For images that were added to the plan since, theirs are added; those of the others stay as they are.

    Raises:
        ConfigError: the prompts given are not those that the run has, or its results were begun without any; or none
            are given, though images were added or prompts were announced with the plan.
        InputError: the prompts cannot be read, or none is for a planned image.
        FencedError: another start froze prompts meanwhile.
    """
    return _frozen(_given_prompts(config, plan), config, plan)


@dataclass(frozen=True)
class _GivenPrompts:
    """The prompts of a run."""

    frozen: Prompts | None
    new: pa.Table | None = None
    """Rows of PROMPTS_SCHEMA that are still to freeze."""
    source: Source = field(default_factory=dict)
    """What those were read from."""

    def num(self, role: Role) -> int:
        """How many there are."""
        before = 0
        if self.frozen is not None:
            before = self.frozen.num_prompts if role == "prompt" else self.frozen.num_regions
        return before + (0 if self.new is None else pc.sum(pc.equal(self.new["role"], role)).as_py() or 0)


def _given_prompts(config: PlanConfig, plan: Plan) -> _GivenPrompts:
    options = config.storage_options
    # In this order: another start may freeze prompts and begin results meanwhile.
    results = read_header(plan.output, options)
    frozen = read_prompts_header(plan.output, options, plan.generation)
    announced = 0 if frozen is not None else announced_generation(plan.output, options) or 0
    # A run without rows may still change from the grid to prompts.
    is_begun = results is not None and results.num_images > 0
    if not config.prompting.is_given:
        if announced >= plan.generation and not is_begun:
            raise ConfigError(
                f"{config.output} was given prompts, which were not frozen to the end: give --prompts or "
                "--regions again, or use another --output, or --replan"
            )
        if frozen is not None and frozen.num_images < plan.num_images:
            raise _lacking(frozen, plan, _kinds_of(frozen))
        return _GivenPrompts(frozen)
    if frozen is not None:
        config = _read_as_before(config, frozen)
    source = _source(config.prompting, options)
    if frozen is None:
        # With prompts announced no run begins without them; else one may, as long as they are not frozen.
        if is_begun or (results is not None and announced != plan.generation):
            raise _begun_without_prompts(config)
        return _GivenPrompts(None, _matched(config.prompting, plan, options, first_id=0), source)
    if frozen.num_images < plan.num_images:
        if lacking := [name for name in _kinds_of(frozen) if getattr(config.prompting, name) is None]:
            raise _lacking(frozen, plan, lacking)
        return _GivenPrompts(frozen, _matched(config.prompting, plan, options, first_id=frozen.num_images), source)
    given = config.given()
    differences = [name for name in source if source[name] != frozen.source.get(name)]
    if differences := [name for name in differences if name.removesuffix("_version") in given]:
        raise ConfigError(
            f"{config.output} was planned with other prompts ({', '.join(differences)} differ); leave them out to go "
            "on with those it has, or use another --output, or --replan while there are no results"
        )
    return _GivenPrompts(frozen)


def _kinds_of(frozen: Prompts) -> list[str]:
    """The settings that a run's prompts came from."""
    return [name for name, num in (("prompts", frozen.num_prompts), ("regions", frozen.num_regions)) if num]


def _lacking(frozen: Prompts, plan: Plan, names: Sequence[str]) -> ConfigError:
    flags = " and ".join(f"--{name}" for name in names)
    return ConfigError(
        f"{plan.num_images - frozen.num_images} images were added since the prompts were read: give {flags} again, "
        "with theirs"
    )


def _read_as_before(config: PlanConfig, frozen: Prompts) -> PlanConfig:
    """The configuration, with settings that were not given taken from how the run's prompts were read."""
    names = ["bbox_format"] if config.prompting.prompts is None else ["bbox_format", "min_score", "prompt_images"]
    before = {name: frozen.source[name] for name in names if name in frozen.source}
    return settings_by_name(type(config), before | config.given())


def _frozen(given: _GivenPrompts, config: PlanConfig, plan: Plan) -> Prompts | None:
    options = config.storage_options
    if given.new is None:
        if given.frozen is None and plan.generation > 1:
            discard_prompts(plan.output, options, plan.generation)
        return given.frozen
    if given.frozen is None:
        announce_prompts(plan.output, options, plan.generation)
        _stop_runs_without_prompts(plan, config)
    freeze = write_prompts if given.frozen is None else extend_prompts
    return freeze(plan.output, given.new, given.source, plan.num_images, options, plan.generation)


def _stop_runs_without_prompts(plan: Plan, config: PlanConfig) -> None:
    """Let runs that began while prompts were read give way to them, unless they have rows.

    One that begins later sees that prompts were announced: see check_without_prompts.
    """
    options = config.storage_options
    results = read_header(plan.output, options)
    if results is not None and not results.num_images:
        MaskTable.stop_runs(plan.output, options)
        results = read_header(plan.output, options)
    if results is not None and results.num_images:
        raise _begun_without_prompts(config)


def _begun_without_prompts(config: PlanConfig) -> ConfigError:
    return ConfigError(
        f"the results in {config.output} were begun without prompts; use another --output, or --replan while there are "
        "none"
    )


def _resolved_mode(config: AnnotateConfig, given: _GivenPrompts) -> ResolvedMode:
    mode, has_prompts = config.mode, given.num("prompt") > 0
    if mode == "auto":
        mode = "prompted" if has_prompts else "grid"
    if mode != "grid" and not has_prompts:
        raise ConfigError(f"mode {mode} needs prompts: say which with --prompts")
    if mode == "grid" and has_prompts:
        raise ConfigError(f"mode grid makes no use of the prompts that {config.output} has; use another --output")
    if mode == "prompted" and (config.point_grid is not None or given.num("region")):
        raise ConfigError("point_grid and regions are for the grid, which mode prompted leaves out; mode both has it")
    return mode


def _source(prompting: PromptConfig, options: StorageOptions) -> dict[str, Any]:
    """Identifies the files, and how they are read, without reading them: by URI, size, ETag and settings."""
    source: dict[str, Any] = {}
    for name, list_them in (
        ("prompts", list_prompt_files),
        ("regions", list_prompt_files),
        ("prompt_images", list_image_names),
    ):
        place = getattr(prompting, name)
        uri = None if place is None else absolute_uri(place)
        source |= {name: uri, f"{name}_version": None if uri is None else _version(list_them(uri, options))}
    return source | {"bbox_format": prompting.bbox_format, "min_score": prompting.min_score}


def _version(files: Iterable[SourceObject]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.uri}\0{file.size_bytes}\0{file.etag}\0".encode())
    return digest.hexdigest()


def _matched(prompting: PromptConfig, plan: Plan, storage: StorageOptions, first_id: int) -> pa.Table:
    """The prompts and regions of images from first_id on: rows of PROMPTS_SCHEMA, in the order of their files.

    Raises:
        InputError: those of a file are for no planned image at all, or none of them can be used.
    """
    options = PromptOptions(storage, prompting, plan.input)
    names = None
    if prompting.prompt_images is not None:
        with reading_limit():
            names = read_image_names(absolute_uri(prompting.prompt_images), storage)
    planned = pa.concat_tables(iterate_planned(plan, ["image_id", "uri", "location", "extra"], storage))
    parts = []
    for role, uri, read in (("prompt", prompting.prompts, read_prompts), ("region", prompting.regions, read_regions)):
        if uri is None:
            continue
        with reading_limit():
            keyed = pa.concat_tables(read(absolute_uri(uri), options))
        if names is not None:
            keyed = with_image_names(keyed, names)
        image_ids = match_images(keyed, planned)
        # Added images in which a detector found nothing are no reason to stop, names that fit no image are.
        if (image_ids < 0).all() and (keyed.num_rows or not first_id):
            why = why_none_match(keyed, planned) if keyed.num_rows else _why_all_left_out(uri, options)
            raise InputError(f"no {role} in {uri} is for an image of {plan.input}: {why}")
        wanted = image_ids >= first_id
        rows = keyed.drop_columns(["key", "is_image_id"]).append_column("image_id", pa.array(image_ids))
        rows = rows.append_column("role", pa.repeat(role, len(rows))).filter(pa.array(wanted))
        num_images = len(np.unique(image_ids[wanted]))
        num_bad = rows.num_rows - rows["error"].null_count
        if num_bad == rows.num_rows and not first_id:
            raise InputError(f"no {role} in {uri} can be used: {rows['error'][0].as_py()}")
        logger.info("%d %ss for %d images, %d of them unusable", rows.num_rows, role, num_images, num_bad)
        parts.append(rows.select(PROMPTS_SCHEMA.names).cast(PROMPTS_SCHEMA))
    return pa.concat_tables(parts)


def _why_all_left_out(uri: str, options: PromptOptions) -> str:
    """Why no prompt is left. Reads the file again, since this is only asked when the run is about to stop."""
    with reading_limit():
        parts = read_prompts(absolute_uri(uri), replace(options, prompting=replace(options.prompting, min_score=None)))
        highest = max(score for part in parts if (score := pc.max(part["score"]).as_py()) is not None)
    return f"all scores are below --min-score {options.prompting.min_score:g}, the highest is {highest:g}"
