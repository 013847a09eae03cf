"""Planning: list the input once and freeze it; later starts reuse what was frozen."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from sam_pipeline.config import PlanConfig
from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.filesystem import StorageOptions, absolute_uri
from sam_pipeline.storage.plan_table import Plan, read_plan, read_planned, write_plan
from sam_pipeline.storage.sources import SourceImage, list_images

_SAMPLED_IMAGES = 20

logger = logging.getLogger(__name__)


def ensure_plan(config: PlanConfig) -> Plan:
    """Return the plan of an output, making it when there is none.

    Raises:
        ConfigError: there is no plan and no input, or the plan is of another input.
        InputError: the input cannot be listed or holds no image.
        OutputError: the plan cannot be written.
    """
    output, options = absolute_uri(config.output), config.parsed_storage_options
    plan = read_plan(output, options)
    if plan is None:
        if config.input is None:
            raise ConfigError(f"{config.output} has no plan yet: say which images with --input")
        listing = list_images(config.input, options)
        if listing.num_skipped:
            logger.info("skipped %d files that are not images", listing.num_skipped)
        return write_plan(output, absolute_uri(config.input), listing.images, options)
    if config.input is not None and absolute_uri(config.input) != plan.input:
        raise ConfigError(f"{config.output} was planned from {plan.input}, not {config.input}; use another --output")
    return plan


def sample_images(plan: Plan, options: StorageOptions) -> Iterator[SourceImage]:
    """Some images spread over a plan, each read from it only when it is asked for."""
    step = max(1, plan.num_images // _SAMPLED_IMAGES)
    for image_id in range(0, plan.num_images, step)[:_SAMPLED_IMAGES]:
        (row,) = read_planned(plan.output, image_id, image_id + 1, options).to_pylist()
        yield SourceImage(row["uri"], row["size_bytes"], row["etag"])
