"""The command `plan`, and with --estimate what the run would take."""

from __future__ import annotations

from typing import Annotated

from sam_pipeline.cli.flags import AsJson, Switch, flags_of
from sam_pipeline.cli.output.printing import print_json, print_table
from sam_pipeline.config import EstimateConfig, PlanConfig
from sam_pipeline.config.base import setting_names, settings_by_name
from sam_pipeline.errors import ConfigError
from sam_pipeline.process import events, supervisor


def plan(
    config: Annotated[EstimateConfig, flags_of(EstimateConfig)],
    estimate: Switch = False,
    json_: AsJson = False,
) -> int:
    """List the input once and freeze it, and the prompts if any, without annotating anything.

    With --estimate it takes all flags of `annotate` too, and prices.

    Args:
        config: The settings.
        estimate: Send a sample of the images through the stages for a minute, and say what the run would take: images a
            second, time, GPU-hours, bytes, requests, money.
        json_: With --estimate: print all figures as one JSON object.
    """
    if not estimate:
        return _plan(_plan_config(config, is_json=json_))
    if supervisor.is_wanted():
        return supervisor.supervise(max_restarts=0)
    from sam_pipeline.cli.output.estimate_text import estimate_rows
    from sam_pipeline.pipeline.estimating.estimate import estimate as estimate_run

    found = estimate_run(config)
    if json_ or events.are_used():
        print_json(found.to_dict())
    else:
        print_table(estimate_rows(found))
    return 0


def _plan(config: PlanConfig) -> int:
    from sam_pipeline.pipeline.plan import ensure_plan
    from sam_pipeline.pipeline.prompt_plan import ensure_prompts

    made = ensure_plan(config)
    rows: dict[str, object] = {"output": config.output, "input": made.input, "images": made.num_images}
    if (prompts := ensure_prompts(config, made)) is not None:
        rows |= {"prompts": prompts.num_prompts, "regions": prompts.num_regions}
    print_table(rows)
    return 0


def _plan_config(config: EstimateConfig, *, is_json: bool) -> PlanConfig:
    """The settings of a plan alone.

    Raises:
        ConfigError: others were given. Ignored, they would look as if the plan had them.
    """
    given = config.given()
    others = [name for name in given if name not in setting_names(PlanConfig)] + (["json"] if is_json else [])
    if others:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ConfigError(f"{flags}: only for --estimate and annotate; add --estimate, or leave them out")
    return settings_by_name(PlanConfig, given)
