"""infra/grafana/ is what Prometheus and Grafana read, and speaks of the series that there are."""

import json
import re
import subprocess
from itertools import combinations

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from ray.util.metrics import Counter, Gauge, Histogram

from sam_pipeline.pipeline import metrics
from tests.prometheus import GRAFANA, program_path

DASHBOARD = json.loads((GRAFANA / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SERIES = vars(metrics._Series()).values()


def promtool(*arguments):
    done = subprocess.run([program_path("promtool"), *arguments], cwd=GRAFANA, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [("config", "prometheus.yml"), ("rules", "alerts.yaml")], ids=lambda arguments: arguments[0]
)
def test_prometheus_takes_the_files(arguments):
    promtool("check", *arguments)


def test_alerts_fire_when_they_should_and_not_before():
    promtool("test", "rules", "alerts_test.yaml")


def test_grafana_knows_every_field_of_the_dashboard():
    register_default_plugins()
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert_holds(known, DASHBOARD)


def assert_holds(known, given):
    """Whether all that was given is still there; Grafana adds defaults."""
    if isinstance(given, dict):
        assert given.keys() <= known.keys()
        for name, value in given.items():
            assert_holds(known[name], value)
    elif isinstance(given, list):
        for value, other in zip(given, known, strict=True):
            assert_holds(other, value)
    else:
        assert known == given


def test_panels_have_ids_of_their_own_and_places_within_the_page_that_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (max(one[x], other[x]) >= min(one[x] + one[w], other[x] + other[w]) for x, w in ("xw", "yh"))
        assert any(apart)


def test_every_series_is_on_the_dashboard_and_alerts_name_no_other():
    names = {series.info["name"] for series in SERIES}

    def named(text):
        found = set(re.findall(r"ray_(sam_pipeline_\w+)", text))
        return {name if name in names else re.sub("_(bucket|count|sum)$", "", name) for name in found}

    assert named(json.dumps(DASHBOARD)) == names
    assert named((GRAFANA / "alerts.yaml").read_text()) < names


def test_names_tell_what_kind_of_series_it_is():
    ends = {Counter: r".*_total", Histogram: r".*_seconds", Gauge: r".*(_images|_timestamp_seconds|_info)"}
    for series in SERIES:
        assert re.fullmatch(ends[type(series)], series.info["name"])
        assert "run" in series.info["tag_keys"]
        assert series.info["description"]


def test_every_query_of_a_run_asks_for_that_run_alone():
    for panel in PANELS:
        for target in panel["targets"]:
            asked = re.findall(r"ray_(?!node_)\w+(\{(?:\${run}|[^}])*\})?", target["expr"])
            assert asked or "ray_node_" in target["expr"]
            assert all('="$run"' in labels or '=~"${run}_.*"' in labels for labels in asked), panel["title"]
