"""A real Prometheus (Debian's) that watches a Ray cluster as `infra/grafana/prometheus.yml` says."""

from __future__ import annotations

import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import LOOPBACK, free_ports
from tests.processes import Program, Start

GRAFANA = Path(__file__).parents[1] / "infra" / "grafana"

FAST = {"RAY_metrics_report_interval_ms": "3000"}
"""Environment of a cluster whose processes pass on what they count every three seconds, in place of ten."""


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    program: Program
    url: str

    def query(self, expression: str) -> dict[str, float]:
        """The value of each series that answers a query now, by its labels as JSON; what is no number is left out."""
        answer = self._get("query", query=expression)
        assert answer["resultType"] == "vector", expression
        values = {json.dumps(each["metric"], sort_keys=True): float(each["value"][1]) for each in answer["result"]}
        return {labels: value for labels, value in values.items() if value == value}

    def alerts(self) -> dict[str, str]:
        """Alerts by name: pending or firing."""
        return {alert["labels"]["alertname"]: alert["state"] for alert in self._get("alerts")["alerts"]}

    def is_firing(self, name: str) -> bool:
        """Whether an alert fires."""
        return self.alerts().get(name) == "firing"

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._get("query", query="1"))
        except OSError:
            return False

    def exposed(self, prefix: str) -> str:
        """What the cluster's ports say of series with a prefix, as Prometheus reads it."""
        targets = [target["scrapeUrl"] for target in self._get("targets")["activeTargets"]]
        lines = [line for url in targets for line in _read(url).decode().splitlines()]
        return "".join(
            f"{line}\n" for line in lines if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(prefix)
        )

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        content = json.loads(_read(url))
        assert content["status"] == "success", content
        return content["data"]


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def program_path(name: str) -> str:
    """prometheus or promtool; the test is skipped where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} here; on Debian: apt-get install prometheus")
    return path


@contextmanager
def prometheus(start: Start, env: Mapping[str, str], folder: Path, alerts: str) -> Iterator[Prometheus]:
    """Watch the clusters whose temporary folder is env's RAY_TMPDIR; asks and evaluates every second.

    Args:
        start: starts programs.
        env: of the cluster.
        folder: an empty one.
        alerts: what is to be in alerts.yaml.
    """
    server, (port,) = program_path("prometheus"), free_ports(1)
    settings = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "alerts.yaml").write_text(alerts)
    (discovery,) = settings["scrape_configs"][0]["file_sd_configs"]
    discovery["files"] = [file.replace("/tmp/ray", f"{env['RAY_TMPDIR']}/ray") for file in discovery["files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    flags = {"config.file": "prometheus.yml", "storage.tsdb.path": "data"}
    options = [f"--{name}={folder / value}" for name, value in flags.items()]
    program = start(*options, f"--web.listen-address={LOOPBACK}:{port}", script=server)
    found = Prometheus(program, f"http://{LOOPBACK}:{port}")
    try:
        program.wait_until(found.is_ready)
        yield found
    finally:
        program.kill()
