"""All settings of an estimate: those of the run, and what things cost."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from sam_pipeline.config.base import Settings, check
from sam_pipeline.config.runs import AnnotateConfig


@dataclass(frozen=True, kw_only=True)
class PriceConfig(Settings):
    """What things cost, all in one currency, whichever it is. What has no price is counted, and costs nothing."""

    price_node_hour: float | None = None
    """An hour of one machine."""
    price_put_1000: float | None = None
    """A thousand requests that write or list: PUT, POST, LIST."""
    price_get_1000: float | None = None
    """A thousand requests that read: GET, HEAD."""
    price_gb_month: float | None = None
    """A gigabyte that is stored for a month."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first price that is negative or not finite."""
        super().__post_init__()
        for item in dataclasses.fields(self):
            price = getattr(self, item.name)
            check(price is None or (price >= 0 and math.isfinite(price)), item.name, "at least 0", price)


@dataclass(frozen=True, kw_only=True)
class EstimateConfig(AnnotateConfig):
    """The run that is estimated, and what things cost."""

    prices: PriceConfig = field(default_factory=PriceConfig)
