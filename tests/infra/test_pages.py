"""What all of infra/ promises: a token, a dashboard that nobody else reaches, no secret, and figures that add up."""

import json
import re

import pytest

from sam_pipeline.pipeline.estimating.requests import Work, requests_of
from sam_pipeline.pipeline.machines.resources import GPU_IMAGES_PER_S
from sam_pipeline.storage.inputs.source_object import SourceObject
from tests.infra.files import INFRA, ROOT

SECRETS = r"A[KS]IA|secretAccessKey|RAY_AUTH_TOKEN\W+[0-9a-f]{16}|BEGIN [A-Z ]*PRIVATE KEY"

PAGES = ["README.md", "docs/running.md", "infra/README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile"]


@pytest.mark.parametrize("page", PAGES)
def test_ray_is_never_started_without_a_token_or_with_an_open_dashboard(page):
    text = (ROOT / page).read_text()
    starts = re.findall(r"^ *ray start.*$", text, flags=re.MULTILINE)
    if starts:
        assert text.index("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=") < text.index(starts[0])
    assert all("--dashboard-host=127.0.0.1" in line for line in starts if "--head" in line)
    assert "dashboard-host=0.0.0.0" not in text


def test_no_secret_is_written_down():
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not re.search(SECRETS, path.read_text()), path


def cost_rows():
    """Of the table of costs: model, on what, rate, hours, example price, cost."""
    rows = re.findall(r"^\| `(vit_.)` \| (.+) \|$", (INFRA / "README.md").read_text(), flags=re.MULTILINE)
    return [(model, *cells.split(" | ")) for model, cells in rows]


def test_costs_are_hours_by_price():
    assert len(cost_rows()) == 5
    for _, _, rate, hours, price, cost in cost_rows():
        assert float(hours) == round(1e6 / float(rate) / 3600, 1)
        assert float(cost) == round(1e6 / float(rate) / 3600 * float(price))


def test_rates_of_gpus_are_those_by_which_a_run_is_divided_and_are_called_goals():
    expected = {model: rate for model, on, rate, *_ in cost_rows() if on == "GPU, goal"}
    assert {model: float(rate) for model, rate in expected.items()} == {
        model: GPU_IMAGES_PER_S[model] for model in ("vit_t", "vit_b", "vit_l", "vit_h")
    }


def test_the_rate_of_cpus_is_the_one_that_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "generator.json").read_text())
    assert measured["machine"]["cpus"] == 2
    (seconds,) = [row["seconds"] for row in measured["rows"] if row["name"] == "ours"]
    (rate,) = [rate for _, on, rate, *_ in cost_rows() if on == "two CPUs, measured"]
    assert f"{1 / round(seconds, 1):.3f}" == rate


def test_requests_are_those_that_an_estimate_tells():
    image = SourceObject("s3://bucket/a.jpg", 1, None)
    work = Work("s3://bucket/out", 10**6, [image], 256, 256, 20 * 10**9, has_prompts=False, commit_interval_s=10)
    requests = requests_of(work, 10**6 / 40)
    page = " ".join((INFRA / "README.md").read_text().split())
    said = re.search(r"([\d.]+) million GET and (\d+) thousand PUT and LIST", page)
    assert (float(said[1]), int(said[2])) == (round(requests.num_get / 1e6, 1), round(requests.num_put / 1e3))


def test_every_file_is_in_the_table():
    page = (INFRA / "README.md").read_text()
    (table, *_) = re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE)
    named = re.findall(r"`([\w./*-]+)`", table)
    files = set()
    for folder in ("docker", "kubernetes", "aws", "slurm", "grafana", "audit", "benchmarks"):
        files |= {str(path.relative_to(INFRA)) for path in (INFRA / folder).iterdir()}
    assert files - {"docker/Dockerfile.dockerignore", "grafana/alerts_test.yaml"} == {
        str(path.relative_to(INFRA)) for name in named for path in INFRA.glob(name) if path.is_file()
    }
    assert all(list(INFRA.glob(name)) for name in named if "/" in name)
