"""`plan --estimate` beside runs: what it predicts, what it leaves behind, what it refuses. A fake engine computes.

Its images take time without work, so that what else the machine does changes little.
"""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions

pytestmark = [pytest.mark.s3, pytest.mark.slow]

SECONDS = 0.5
"""What decoding an image takes: far more than all else."""

SLOW = Instructions(seconds=SECONDS)


def figures(run, *flags, **options):
    finished = run.estimate(*flags, **options).wait()
    assert finished.exit_code == 0, finished.stderr
    return json.loads(finished.stdout)


def refusal(run, *flags, **options):
    finished = run.estimate(*flags, **options).wait()
    assert finished.stdout == ""
    return finished.exit_code, finished.stderr.splitlines()[-1]


def keys(run):
    bucket, _, prefix = run.output.removeprefix("s3://").partition("/")
    return [key.removeprefix(f"{prefix}/") for key in run.s3.list_keys(bucket, prefix)]


def folders_of_samples():
    return set(Path(tempfile.gettempdir()).glob("sam-pipeline-*"))


@pytest.mark.soak
def test_an_estimate_tells_rate_and_requests_of_the_run_and_leaves_nothing_but_the_plan(proxied, cluster):
    run, proxy = proxied
    before = folders_of_samples()
    found = figures(run, "--price-get-1000", 0.4, address=cluster, instructions=SLOW)
    assert {key.partition("/")[0] for key in keys(run)} == {"images"}
    assert folders_of_samples() <= before
    assert (found["num_images"], found["num_left"]) == (NUM_IMAGES, NUM_IMAGES)
    assert found["sample"]["num_by_status"] == {"ok": found["sample"]["num_images"]}
    assert 10 < found["sample"]["num_images"] < NUM_IMAGES
    assert found["bottleneck"] == "decode"
    # The engine sleeps; what else an image takes, on a machine that is shared, is a quarter of that at most.
    assert 0.75 / SECONDS < found["run"]["images_per_s"] < 1.05 / SECONDS
    # Shards of four such images hold little but the frame of a Parquet file.
    assert 1000 < found["bytes_out"] / NUM_IMAGES < 10_000

    proxy.requests.clear()
    proxy.num_lists = 0
    finished = run.annotate(address=cluster, instructions=SLOW).wait()
    assert finished.exit_code == 0, finished.stderr
    asked = found["run"]["requests"]
    # How many commits there are, and how often the log is looked at meanwhile, is a matter of time.
    assert asked["num_put"] == pytest.approx(proxy.requests["PUT"] + proxy.num_lists, rel=0.2)
    assert asked["num_get"] == pytest.approx(proxy.requests["GET"] - proxy.num_lists + proxy.requests["HEAD"], rel=0.2)
    assert found["run"]["cost"]["requests"] == pytest.approx(0.4 * asked["num_get"] / 1000)

    finished = figures(run, address=cluster)
    assert (finished["num_left"], finished["run"], finished["bytes_out"]) == (0, None, 0)
    code, line = refusal(run, "--points-per-side", 3, address=cluster)
    assert code == 2
    assert "points_per_side: 32 in the output, 3 now" in line


@pytest.mark.soak
def test_of_a_run_that_was_killed_what_is_left_is_estimated_and_its_epoch_stays(run, cluster):
    begun = run.annotate(address=cluster, instructions=SLOW)
    begun.wait_until(lambda: run.num_committed() >= 8)
    begun.kill()
    num_committed, keys_before = run.num_committed(), keys(run)
    found = figures(run, address=cluster, instructions=SLOW)
    assert (found["num_images"], found["num_left"]) == (NUM_IMAGES, NUM_IMAGES - num_committed)
    assert sorted(keys(run)) == sorted(keys_before)
    assert run.annotate(address=cluster).wait().exit_code == 0
    run.assert_complete()


def test_a_sample_of_broken_images_is_told(run, cluster):
    bucket = run.s3.create_bucket()
    for number in range(5):
        run.s3.put(bucket, f"images/{number}.png", b"\x89PNG\r\n\x1a\n and no more")
    code, line = refusal(replace(run, input=f"s3://{bucket}/images"), address=cluster)
    assert code == 1
    assert line.startswith("error: no image of the sample is ok (5 decode_error), so there is nothing to estimate from")


@pytest.mark.soak
def test_workers_that_fail_are_told(run, cluster):
    poison = {str(number): ("decode", "raise") for number in range(NUM_IMAGES)}
    code, line = refusal(run, address=cluster, instructions=Instructions(poison=poison))
    assert code == 1
    message = r"error: no image of the sample came through; the last error was RuntimeError: image \d+ is poison"
    assert re.fullmatch(message, line)


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_listed(run, cluster):
    code, line = refusal(run, "--device", "cuda", address=cluster)
    assert code == 2
    assert line.startswith("error: device cuda was asked for, and the cluster has no GPU: ")
    assert keys(run) == []


def test_an_empty_input_is_refused(run, cluster):
    code, line = refusal(replace(run, input=f"{run.input}-none"), address=cluster)
    assert (code, line) == (2, f"error: input not found: {run.input}-none")
