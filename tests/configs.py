"""Configurations from settings by name, as flags and keywords of `annotate` give them."""

from sam_pipeline.config import AnnotateConfig, PlanConfig
from sam_pipeline.config.base import Settings, settings_by_name


def plan_config(**settings):
    return settings_by_name(PlanConfig, settings)


def annotate_config(**settings):
    """Nested settings may also be given whole."""
    by_name = {}
    for name, value in settings.items():
        by_name |= value.given() if isinstance(value, Settings) else {name: value}
    return settings_by_name(AnnotateConfig, by_name)
