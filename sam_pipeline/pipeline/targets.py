"""What is to be found in each image: the masks of a grid of points, of prompts frozen with the plan, or both."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sam_pipeline.config import AnnotateConfig, PlanConfig, ResolvedMode
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.storage.filesystem import absolute_uri
from sam_pipeline.storage.plan_table import Plan, iterate_planned
from sam_pipeline.storage.point_grid_files import PointGrids, read_point_grids
from sam_pipeline.storage.prompt_table import Prompts, extend_prompts, read_prompts_header, write_prompts
from sam_pipeline.storage.prompts.matching import match_images
from sam_pipeline.storage.prompts.prompt_files import list_prompt_files, read_prompts, read_regions
from sam_pipeline.storage.prompts.prompt_rows import PromptOptions
from sam_pipeline.storage.schema import PROMPTS_SCHEMA

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Targets:
    """What is to be found, resolved."""

    mode: ResolvedMode
    prompts: Prompts | None
    point_grids: PointGrids | None

    @property
    def pinned(self) -> dict[str, Any]:
        """What of it belongs to the fingerprint."""
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
    """What a run is to find; its prompts are frozen first.

    Raises:
        ConfigError: a mode without what it needs, or a point grid that is none.
        SamPipelineError: see ensure_prompts.
    """
    prompts = ensure_prompts(config, plan)
    mode, has_prompts = config.mode, prompts is not None and prompts.num_prompts > 0
    if mode == "auto":
        mode = "prompted" if has_prompts else "grid"
    if mode != "grid" and not has_prompts:
        raise ConfigError(f"mode {mode} needs prompts: say which with --prompts")
    if mode == "grid" and has_prompts:
        raise ConfigError(f"mode grid makes no use of the prompts that {config.output} has; use another --output")
    if mode == "prompted" and (config.point_grid is not None or (prompts is not None and prompts.num_regions)):
        raise ConfigError("point_grid and regions are for the grid, which mode prompted leaves out; mode both has it")
    grids = None
    if config.point_grid is not None:
        num_layers = config.masks.crop_n_layers + 1
        grids = read_point_grids(absolute_uri(config.point_grid), num_layers, config.parsed_storage_options)
    return Targets(mode, prompts, grids)


def ensure_prompts(config: PlanConfig, plan: Plan) -> Prompts | None:
    """Return the prompts of a planned run, freezing them when they are given for the first time.

    For images that were added to the plan since, theirs are added; those of the others stay as they are.

    Raises:
        ConfigError: the prompts given are not those that the run has, or images were added and no prompts given.
        InputError: the prompts cannot be read, or none is for a planned image.
        FencedError: another start froze prompts meanwhile.
    """
    options = config.parsed_storage_options
    frozen = read_prompts_header(plan.output, options)
    if config.prompts is None and config.regions is None:
        if frozen is not None and frozen.num_images < plan.num_images:
            raise ConfigError(
                f"{plan.num_images - frozen.num_images} images were added since the prompts were read: give "
                "--prompts or --regions again, with theirs"
            )
        return frozen
    source = _source(config)
    if frozen is None:
        prompts = _matched(config, plan, first_id=0)
        if not prompts.num_rows:
            raise InputError(f"no prompt in {config.prompts or config.regions} is for an image of {plan.input}")
        frozen = write_prompts(plan.output, prompts, source, plan.num_images, options)
    elif frozen.num_images < plan.num_images:
        prompts = _matched(config, plan, first_id=frozen.num_images)
        frozen = extend_prompts(plan.output, prompts, source, plan.num_images, options)
    elif differences := [name for name in source if source[name] != frozen.source.get(name)]:
        raise ConfigError(
            f"{config.output} was planned with other prompts ({', '.join(differences)} differ); leave them out to go "
            "on with those it has, or use another --output"
        )
    return frozen


def _source(config: PlanConfig) -> dict[str, Any]:
    """What tells, without reading them, whether the files and the way they are read are the same."""
    return {
        "prompts": None if config.prompts is None else absolute_uri(config.prompts),
        "prompts_version": _version(config.prompts, config),
        "regions": None if config.regions is None else absolute_uri(config.regions),
        "regions_version": _version(config.regions, config),
        "bbox_format": config.bbox_format,
        "min_score": config.min_score,
    }


def _version(uri: str | None, config: PlanConfig) -> str | None:
    if uri is None:
        return None
    digest = hashlib.sha256()
    for file in list_prompt_files(absolute_uri(uri), config.parsed_storage_options):
        digest.update(f"{file.uri}\0{file.size_bytes}\0{file.etag}\0".encode())
    return digest.hexdigest()


def _matched(config: PlanConfig, plan: Plan, first_id: int) -> pa.Table:
    """The prompts and regions of images from first_id on: rows of PROMPTS_SCHEMA, in the order of their files."""
    storage = config.parsed_storage_options
    options = PromptOptions(storage, config.bbox_format, config.min_score)
    planned = pa.concat_tables(iterate_planned(plan.output, ["image_id", "uri", "location", "extra"], storage))
    parts = []
    for role, uri, read in (("prompt", config.prompts, read_prompts), ("region", config.regions, read_regions)):
        if uri is None:
            continue
        keyed = pa.concat_tables(read(absolute_uri(uri), options))
        image_ids = match_images(keyed["key"], planned)
        wanted = image_ids >= first_id
        rows = keyed.drop_columns(["key"]).append_column("image_id", pa.array(image_ids))
        rows = rows.append_column("role", pa.repeat(role, len(rows))).filter(pa.array(wanted))
        num_images = len(np.unique(image_ids[wanted]))
        num_bad = rows.num_rows - rows["error"].null_count
        logger.info("%d %ss for %d images, %d of them unusable", rows.num_rows, role, num_images, num_bad)
        parts.append(rows.select(PROMPTS_SCHEMA.names).cast(PROMPTS_SCHEMA))
    return pa.concat_tables(parts)
