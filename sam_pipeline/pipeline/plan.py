"""Planning: list the input once and freeze it; later starts reuse what was frozen."""

from __future__ import annotations

import logging

from sam_pipeline.config import PlanConfig
from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.filesystem import absolute_uri
from sam_pipeline.storage.plan_table import Plan, read_plan, write_plan
from sam_pipeline.storage.sources import list_images

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
