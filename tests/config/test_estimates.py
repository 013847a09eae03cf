import math

import pytest

from sam_pipeline.config import EstimateConfig, PriceConfig
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.errors import ConfigError


@pytest.mark.parametrize("name", ["price_node_hour", "price_put_1000", "price_get_1000", "price_gb_month"])
@pytest.mark.parametrize("price", [-0.01, math.nan, math.inf])
def test_a_price_is_a_finite_number_from_nothing_on(name, price):
    with pytest.raises(ConfigError, match=rf"^{name} must be at least 0, got {price}$"):
        settings_by_name(EstimateConfig, {"output": "run", name: price})
    assert getattr(settings_by_name(EstimateConfig, {"output": "run", name: 0}).prices, name) == 0


def test_what_has_no_price_has_none():
    assert EstimateConfig(output="run").prices == PriceConfig() == PriceConfig(price_put_1000=None)
