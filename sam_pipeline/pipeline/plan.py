"""Planning: list the input once and freeze it; later starts reuse what was frozen, or add to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.config import PlanConfig
from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.filesystem import StorageOptions, absolute_uri
from sam_pipeline.storage.mask_table import MaskTable, read_header
from sam_pipeline.storage.plan_table import Plan, extend_plan, iterate_planned, read_plan, read_planned, write_plan
from sam_pipeline.storage.prompt_table import announce_prompts
from sam_pipeline.storage.schema import IMAGES_SCHEMA
from sam_pipeline.storage.sources.inputs import list_input
from sam_pipeline.storage.sources.source_image import SourceImage, image_of_row

_SAMPLED_IMAGES = 20

logger = logging.getLogger(__name__)


def ensure_plan(config: PlanConfig) -> Plan:
    """Return the plan of an output, making it when there is none, and adding to it when asked.

    Raises:
        ConfigError: there is no plan and no input, or the plan is of another input.
        InputError: the input cannot be listed or holds no image.
        OutputError: the plan cannot be written.
        FencedError: another run planned meanwhile.
    """
    output, options = absolute_uri(config.output), config.storage_options
    plan = read_plan(output, options)
    if plan is None:
        if config.input is None:
            raise ConfigError(f"{config.output} has no plan yet: say which images with --input")
        images = list_input(config)
        if config.prompts is not None or config.regions is not None:
            announce_prompts(output, options)
        return write_plan(output, absolute_uri(config.input), images, options)
    if config.input is not None and absolute_uri(config.input) != plan.input:
        raise ConfigError(f"{config.output} was planned from {plan.input}, not {config.input}; use another --output")
    return _extended(plan, config) if config.extend else plan


def _extended(plan: Plan, config: PlanConfig) -> Plan:
    options = config.storage_options
    found = list_input(config)
    planned = pa.concat_tables(iterate_planned(plan.output, ["image_id", "uri", "size_bytes", "etag"], options))
    # Two gigabytes of names are too many for one array of strings.
    uris, planned_uris = (table["uri"].cast(pa.large_string()) for table in (found, planned))
    positions = pc.index_in(uris, value_set=planned_uris.combine_chunks())
    is_new = pc.is_null(positions)
    again = found.filter(pc.invert(is_new))
    before = planned.select(["image_id", "size_bytes", "etag"]).take(positions.drop_null())
    differs = pc.or_(*(pc.fill_null(pc.not_equal(again[name], before[name]), False) for name in ("size_bytes", "etag")))
    changed = again.add_column(0, IMAGES_SCHEMA.field("image_id"), before["image_id"]).filter(differs)
    new = found.filter(is_new)
    num_gone = planned.num_rows - again.num_rows
    gone = "gone, or left out now" if config.include or config.exclude else "gone"
    logger.info("%d new images, %d changed, %d %s", new.num_rows, changed.num_rows, num_gone, gone)
    if not config.redo_changed:
        if changed.num_rows:
            logger.warning("what has changed keeps its masks; --redo-changed annotates it again")
        return extend_plan(plan, new, changed.slice(0, 0), options)
    if changed.num_rows and read_header(plan.output, options) is not None:
        # First the rows: killed in between, the next look finds the same images changed.
        MaskTable.stop_runs(plan.output, options).delete_images(changed["image_id"].to_numpy())
    return extend_plan(plan, new, changed, options)


def sample_images(plan: Plan, options: StorageOptions) -> Iterator[SourceImage]:
    """Some images spread over a plan, each read from it only when it is asked for."""
    step = max(1, plan.num_images // _SAMPLED_IMAGES)
    for image_id in range(0, plan.num_images, step)[:_SAMPLED_IMAGES]:
        (row,) = read_planned(plan.output, [image_id], options).to_pylist()
        yield image_of_row(row)
