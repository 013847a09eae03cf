"""`plan --estimate`: which flags it takes, what it prints. tests/faults and tests/end_to_end estimate in earnest."""

import json
import re

import pytest

from sam_pipeline.config import EstimateConfig
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.pipeline.estimating import estimate as estimate_module
from sam_pipeline.pipeline.estimating.figures import (
    Cost,
    Estimate,
    Requests,
    RunFigures,
    SampleFigures,
    StageFigures,
)
from sam_pipeline.storage.tables.plan import read_plan
from tests.storage.image_files import noise, saved

STAGES = {name: StageFigures(1, 0.5, 0.4, 2.0) for name in ("read", "encode", "decode")} | {
    "write": StageFigures(1, 0.0, 0.0, None)
}
RUN = RunFigures(1, 0, 1.5, 4000.4, 1.1112, 0, Requests(50, 1200), Cost(2.778, 0.001, None))
MORE = RunFigures(2, 8.0, 3.0, 2000, 1.1111, 4.4444, Requests(50, 1200), Cost())
FOUND = Estimate(
    output="/run",
    num_images=6000,
    num_left=5990,
    estimate_s=75.2,
    bytes_out=3_120_000,
    time_spread=0.061,
    sample=SampleFigures(40, {"ok": 39, "decode_error": 1}, 60.4),
    stages=STAGES,
    bottleneck="decode",
    run=RUN,
    one_more_node=MORE,
)


@pytest.fixture
def estimated(monkeypatch):
    """The configurations of which an estimate was made, each of which is FOUND."""
    configs = []

    def estimate(config):
        configs.append(config)
        return FOUND

    monkeypatch.setattr(estimate_module, "estimate", estimate)
    return configs


def test_an_estimate_takes_every_flag_of_annotate_and_prices(cli, estimated):
    flags = {"input": "in", "output": "run", "model_type": "vit_t", "points_per_side": 8, "encode_actors": 2}
    flags |= {"mode": "grid", "price_node_hour": 2.5, "max_restarts": 3}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert cli("plan", "--estimate", *words)[0] == 0
    assert estimated == [settings_by_name(EstimateConfig, flags)]


def test_settings_and_prices_may_be_in_a_file_that_serves_planning_too(cli, estimated, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(saved(noise(8, 8), "PNG"))
    text = f'input = "{tmp_path}/in"\noutput = "{tmp_path}/run"\npoints_per_side = 4\nprice_gb_month = 0.02\n'
    (tmp_path / "run.toml").write_text(text)
    assert cli("plan", "--config", tmp_path / "run.toml", "--estimate", "--price-gb-month", 1)[0] == 0
    (config,) = estimated
    assert (config.masks.points_per_side, config.prices.price_gb_month) == (4, 1)
    assert cli("plan", "--config", tmp_path / "run.toml")[0] == 0
    assert read_plan(f"{tmp_path}/run", {}).num_images == 1


def test_an_extension_takes_flags_without_values_for_none_again(cli, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "in" / name).write_bytes(saved(noise(8, 8), "PNG"))
    command = "plan", "--input", tmp_path / "in", "--output", tmp_path / "run"
    cli(*command, "--exclude", "1*")
    assert cli(*command, "--extend")[0] == 0
    assert read_plan(f"{tmp_path}/run", {}).num_images == 1
    assert cli(*command, "--extend", "--exclude")[0] == 0
    assert read_plan(f"{tmp_path}/run", {}).num_images == 2


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--points-per-side", "8"], "--points-per-side"),
        (["--price-node-hour", "2"], "--price-node-hour"),
        (["--json"], "--json"),
    ],
)
def test_without_an_estimate_a_plan_refuses_what_it_would_ignore(cli, tmp_path, flags, named):
    code, out, err = cli("plan", "--input", tmp_path, "--output", tmp_path / "run", *flags)
    assert (code, out) == (2, "")
    assert err == f"error: {named}: only for --estimate and annotate; add --estimate, or leave them out\n"
    assert not (tmp_path / "run").exists()


def test_figures_are_printed_as_a_table(cli, estimated):
    code, out, err = cli("plan", "--estimate", "--output", "run")
    assert (code, err) == (0, "")
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines())
    assert rows == {
        "output": "/run",
        "images": "6000 (5990 left)",
        "sample": "40 images (39 ok, 1 decode_error), 0:01:00",
        "read": "2 images/s: 1 x 0.5 s an image",
        "encode": "2 images/s: 1 x 0.5 s an image",
        "decode": "2 images/s: 1 x 0.5 s an image",
        "write": "no image yet",
        "bottleneck": "decode",
        "rate": "1.5 images/s",
        "time": "1:06:40 ± 6%",
        "machines": "1 node, 1.11 node-hours",
        "bytes out": "3.12 MB",
        "requests": "50 that write or list, 1200 that read",
        "cost": "machines 2.778, requests 0.001",
        "one more node": "3 images/s; 0:33:20; 2 nodes, 1.11 node-hours, 4.44 GPU-hours",
        "estimated in": "0:01:15",
    }


def test_figures_are_printed_as_json(cli, estimated):
    code, out, err = cli("plan", "--estimate", "--json", "--output", "run")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert found == json.loads(json.dumps(FOUND.to_dict()))
    assert found["run"]["time_s"] == 4000.4
    decode = {"num_workers": 1, "busy_s_per_image": 0.5, "cpu_s_per_image": 0.4, "images_per_s": 2.0}
    assert found["stages"]["decode"] == decode


def test_of_a_finished_run_nothing_is_left(cli, monkeypatch):
    monkeypatch.setattr(estimate_module, "estimate", lambda _: Estimate("/run", 10, 0, 5.0))
    _, out, _ = cli("plan", "--estimate", "--output", "run")
    assert out == "output  /run\nimages  10 (0 left)\ntime    nothing is left to do\n"
    _, out, _ = cli("plan", "--estimate", "--output", "run", "--json")
    assert (json.loads(out)["num_left"], json.loads(out)["bytes_out"], json.loads(out)["run"]) == (0, 0, None)
