"""Fifty races of two drivers for one output: half from nothing, half from a plan, so that they meet at either table."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.test_driver_kills import ROOM_FOR_TWO
from tests.processes import Program

pytestmark = [pytest.mark.s3, pytest.mark.soak]

NUM_RACES = 50
LIMIT_S = 30


@pytest.mark.timeout(1500)
def test_of_two_drivers_one_survives_and_the_other_says_so_in_time(run, cluster):
    slowest_s = 0.0
    for race in range(NUM_RACES):
        each = run.to_output(f"{run.output}-{race}")
        if race % 2:
            planned = each.plan().wait()
            assert planned.exit_code == 0, planned.stderr
        programs = [each.annotate(*ROOM_FOR_TWO, address=cluster) for _ in range(2)]
        with ThreadPoolExecutor() as waiting:  # each end is seen when it comes
            finished = list(waiting.map(Program.wait, programs))
        survivor, loser = sorted(finished, key=lambda each: each.exit_code)
        assert (survivor.exit_code, loser.exit_code) == (0, 3), survivor.stderr + loser.stderr
        assert "error: another run " in loser.stderr.splitlines()[-1]
        # From its start, which is earlier than when it was overtaken.
        assert loser.elapsed_s <= LIMIT_S
        slowest_s = max(slowest_s, loser.elapsed_s)
        each.assert_complete()
    print(f"{NUM_RACES} races, one survivor each; the slowest loser ended {slowest_s:.1f} s after its start")
