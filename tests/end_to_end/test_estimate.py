"""The estimate of a run beside the run, with real weights."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.pictures import save_photos
from tests.end_to_end.settings import SETTINGS
from tests.end_to_end.tables import read_rows

# CI estimates with an engine that finds rectangles, in tests/faults/test_estimates.py.
pytestmark = [pytest.mark.weights, pytest.mark.soak]

NUM_IMAGES = 5

# Of two runs of half a minute, most of it start, on machines that others use too. That runs of minutes are met within
# a fifth is measured: `python -m jobs.benchmark run_estimates`.
TOLERANCE = 0.5


def test_an_estimate_is_near_what_the_run_takes(start, tmp_path):
    photos, output = save_photos(tmp_path / "photos", NUM_IMAGES), tmp_path / "run"
    arguments = ("--input", photos, "--output", output, *SETTINGS, "--num-cpus", 2)
    estimated = start("plan", "--estimate", "--json", *arguments, "--price-node-hour", 3.6).wait()
    assert estimated.exit_code == 0, estimated.stderr
    assert [path.name for path in Path(output).iterdir()] == ["images"]
    found = json.loads(estimated.stdout)
    run, sample, stages = found["run"], found["sample"], found["stages"]
    assert sample["num_by_status"] == {"ok": NUM_IMAGES}  # it is too small a run to leave any out
    assert stages["encode"]["images_per_s"] < stages["write"]["images_per_s"]
    assert run["cost"]["nodes"] == pytest.approx(run["time_s"] / 1000)
    assert found["one_more_node"]["num_nodes"] == 2
    assert found["one_more_node"]["images_per_s"] >= run["images_per_s"]

    annotated = start("annotate", *arguments).wait()
    assert annotated.exit_code == 0, annotated.stderr
    assert run["time_s"] == pytest.approx(annotated.elapsed_s, rel=TOLERANCE)
    assert len(read_rows(str(output))) == NUM_IMAGES
    shards = Path(output, "masks").glob("*.parquet")
    written = sum(path.stat().st_size for path in shards)
    # All shards, and the one that they were merged into. Which images are in a shard together differs.
    assert found["bytes_out"] < written < 3 * found["bytes_out"]
