"""What a real Prometheus sees of runs on a real cluster: the dashboard's queries are answered, faults raise alerts."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from sam_pipeline.storage.run_ids import run_id
from tests.clusters import ray_head
from tests.faults.conftest import NUM_IMAGES, Run
from tests.faults.fake_engine import Instructions
from tests.faults.proxy import Fault, RandomFaults, Rule, fault_proxy
from tests.faults.test_storage_faults import COMMIT
from tests.prometheus import FAST, GRAFANA, Prometheus, program_path, prometheus

# CI has promtool judge the rules, in tests/test_grafana.py.
pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.soak]

ALERTS = (GRAFANA / "alerts.yaml").read_text()

SOONER = {
    "[2m]": "[12s]",
    "for: 5m": "for: 20s",
    "[10m]": "[30s]",
    "for: 2m": "for: 3s",
    "> 60": "> 6",
    "for: 15s": "for: 3s",
}
"""The same rules for a test that is to end within a minute."""

WITHOUT_ANSWER = dict.fromkeys(("GPU use", "GPU memory"), "where there is no GPU")
"""Panels by title, and why."""

NUM_BROKEN = 10


@dataclass(frozen=True)
class Watched:
    """A cluster of two CPUs that a Prometheus watches."""

    address: str
    prometheus: Prometheus


def sooner(alerts: str) -> str:
    for text, replacement in SOONER.items():
        assert text in alerts
        alerts = alerts.replace(text, replacement)
    return alerts


@pytest.fixture
def watched(start, fault_env, tmp_path, request):
    """A cluster and a Prometheus with rules of its own; the parameter changes the text of the rules."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_folder:
        env = fault_env | FAST | {"RAY_TMPDIR": ray_folder}
        (tmp_path / "prometheus").mkdir()
        with (
            ray_head(start, env, num_cpus=2) as head,
            prometheus(start, env, tmp_path / "prometheus", request.param(ALERTS)) as server,
        ):
            yield Watched(head.address, server)


def fast(run: Run) -> Run:
    return replace(run, env={**run.env, **FAST})


def queries(run: Run) -> dict[tuple[str, str], str]:
    """The dashboard's queries of a run, by title and letter."""
    panels = json.loads((GRAFANA / "dashboard.json").read_text())["panels"]
    return {
        (panel["title"], target["refId"]): target["expr"]
        .replace("${run}", run_id(run.output))
        .replace("$run", run_id(run.output))
        .replace("$__rate_interval", "30s")
        .replace("$__range", "1h")
        for panel in panels
        for target in panel.get("targets", [])
    }


def totals(server: Prometheus, run: Run, name: str, label: str) -> Counter[str]:
    """The sum of a counter of a run, by a label."""
    found = server.query(f'sum by ({label}) (ray_sam_pipeline_{name}{{run="{run_id(run.output)}"}})')
    return Counter({json.loads(labels)[label]: int(value) for labels, value in found.items()})


def wait_until(condition, limit_s=600):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "time ran out"
        time.sleep(0.5)


def complaints(exposed: str) -> set[str]:
    """What promtool has against series, but for the labels that Ray adds to all, such as NodeAddress."""
    checked = subprocess.run(
        [program_path("promtool"), "check", "metrics"], input=exposed, capture_output=True, text=True
    )
    return {line for line in checked.stderr.splitlines() if not line.endswith("'snake_case' not 'camelCase'")} - {""}


@pytest.mark.parametrize("watched", [sooner], indirect=True)
def test_every_panel_has_an_answer_counts_are_those_of_the_rows_and_many_bad_images_raise_an_alert(watched, own_images):
    run, bucket = own_images
    for number in range(NUM_BROKEN):
        run.s3.put(bucket, f"images/{4 * number:06}-broken.png", b"no image")
    server, answered = watched.prometheus, set()
    throttled = RandomFaults(0.1, seed=1, kinds=[Fault.SLOW_DOWN])
    with fault_proxy(run.s3, random_faults=throttled) as proxy:
        program = fast(run.through(proxy)).annotate(address=watched.address, instructions=Instructions(seconds=0.3))

        def is_over() -> bool:
            answered.update(key for key, expression in queries(run).items() if server.query(expression))
            return program.process.poll() is not None and server.is_firing("SamPipelineErrors")

        wait_until(is_over)
        exposed = server.exposed("ray_sam_pipeline_")
        finished = program.wait()
    assert finished.exit_code == 0, finished.stderr
    assert "ray_sam_pipeline_images_total" in exposed
    assert complaints(exposed) == set()
    assert {title for title, _ in queries(run).keys() - answered} <= WITHOUT_ANSWER.keys()

    rows = run.rows()
    by_status = Counter(row["status"] for row in rows)
    assert by_status == {"ok": NUM_IMAGES, "decode_error": NUM_BROKEN}
    wait_until(lambda: totals(server, run, "images_total", "status") == by_status, limit_s=20)
    of_run = {name: totals(server, run, f"{name}_total", "run").total() for name in ("masks", "committed_images")}
    assert of_run == {"masks": sum(row["num_masks"] for row in rows), "committed_images": len(rows)}
    through = totals(server, run, "stage_images_total", "stage")
    assert through == dict.fromkeys(("read", "encode", "decode", "write"), len(rows))
    assert totals(server, run, "encoder_crops_total", "run").total() == NUM_IMAGES
    assert totals(server, run, "storage_retries_total", "operation").keys() <= {"read", "write", "commit", "open"}


@pytest.mark.parametrize("watched", [str], indirect=True)
def test_an_engine_that_hangs_raises_the_alert_of_a_stall_and_no_other(watched, run):
    hanging = Instructions(poison={str(number): ["decode", "hang"] for number in range(NUM_IMAGES // 2, NUM_IMAGES)})
    patient = ("--stall-timeout-s", 3000, "--image-timeout-s", 3000)
    in_order = ("--read-cpus", 0.75)  # one reading task: with several, an image may wait behind one that hangs
    program = fast(run).annotate(*patient, *in_order, address=watched.address, instructions=hanging)
    server = watched.prometheus
    wait_until(lambda: server.is_firing("SamPipelineStalled"))
    assert run.num_committed() == NUM_IMAGES // 2
    assert server.alerts() == {"SamPipelineStalled": "firing"}
    program.kill()
    wait_until(lambda: server.alerts() == {}, limit_s=60)


@pytest.mark.parametrize("watched", [str], indirect=True)
def test_storage_that_answers_no_commit_raises_the_alert_of_the_lag_before_the_run_gives_up(watched, proxied):
    run, proxy = proxied
    program = fast(run).annotate(address=watched.address, instructions=Instructions(seconds=2))
    program.wait_until(lambda: run.num_committed() > 0)
    proxy.rules.append(Rule(Fault.STALLED_HEADERS, "PUT", COMMIT))
    server = watched.prometheus
    wait_until(lambda: server.is_firing("SamPipelineCommitLag"))
    assert program.process.poll() is None
    assert totals(server, run, "storage_retries_total", "operation")["commit"] > 0
    proxy.rules.clear()
    assert program.wait().exit_code == 0
    wait_until(lambda: server.alerts() == {}, limit_s=60)
