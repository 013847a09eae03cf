"""Fifty races of two drivers for one output: half from nothing, half from a plan, so that they meet at either table."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.maintenance.verify import verify
from tests.configs import plan_config
from tests.faults.conftest import put_images
from tests.faults.test_driver_kills import ROOM_FOR_TWO
from tests.processes import Program

pytestmark = [pytest.mark.s3, pytest.mark.soak]

NUM_RACES = 50
LIMIT_S = 30

NUM_IMAGES = 4
"""Few: what is raced for is over before the first."""

FEW_WORKERS = ("--encode-actors", 1, "--decode-actors", 1, "--read-cpus", 1, "--shard-rows", NUM_IMAGES)
"""Starting a worker takes seconds."""


@pytest.mark.timeout(1500)
def test_of_two_drivers_one_survives_and_the_other_says_so_in_time(run, cluster, monkeypatch):
    for name, value in run.s3.env.items():
        monkeypatch.setenv(name, value)  # planning and verifying happen here, which spares a process each
    bucket = run.s3.create_bucket()
    put_images(run.s3, bucket, NUM_IMAGES)
    slowest_s = 0.0
    for race in range(NUM_RACES):
        output = f"s3://{bucket}/runs/{race}"
        each = replace(run, input=f"s3://{bucket}/images", output=output, num_images=NUM_IMAGES)
        if race % 2:
            ensure_plan(plan_config(output=output, input=each.input))
        programs = [each.annotate(*ROOM_FOR_TWO, *FEW_WORKERS, address=cluster) for _ in range(2)]
        with ThreadPoolExecutor() as waiting:  # each end is seen when it comes
            finished = list(waiting.map(Program.wait, programs))
        survivor, loser = sorted(finished, key=lambda each: each.exit_code)
        assert (survivor.exit_code, loser.exit_code) == (0, 3), survivor.stderr + loser.stderr
        assert "error: another run " in loser.stderr.splitlines()[-1]
        # From its start, which is earlier than when it was overtaken.
        assert loser.elapsed_s <= LIMIT_S
        slowest_s = max(slowest_s, loser.elapsed_s)
        each.assert_rows()
        assert verify(output, {}).ok
    print(f"{NUM_RACES} races, one survivor each; the slowest loser ended {slowest_s:.1f} s after its start")
