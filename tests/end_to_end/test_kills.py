"""Runs that are killed as by a power cut, or stopped and overtaken: nothing is lost, nothing is done twice."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import comparable, num_committed, num_planned, read_rows

# In `make test` test_prompted_run.py kills a run with real weights; tests/faults/ kill the fake one at named points.
pytestmark = [pytest.mark.weights, pytest.mark.slow, pytest.mark.soak]

NUM_KILLS = 3


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes."""

    input: str
    output: str
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(params=["local disk", pytest.param("S3", marks=pytest.mark.s3)])
def place(request, photos, tmp_path):
    if request.param == "local disk":
        return Place(str(photos), str(tmp_path / "out"))
    s3 = request.getfixturevalue("s3")
    bucket = s3.create_bucket()
    return Place(s3.put_folder(bucket, "photos", photos), f"s3://{bucket}/runs/1", s3.env, s3.storage_options)


def test_a_run_killed_after_planning_and_after_three_commits_ends_as_if_undisturbed(place, start, undisturbed):
    def begin():
        arguments = ("--input", place.input, "--output", place.output, *SETTINGS, *SMALL_SHARDS)
        return start("annotate", *arguments, "--num-cpus", 2, env=place.env)

    killed = begin()
    killed.wait_until(lambda: num_planned(place.output, place.options) > 0)
    killed.kill()
    assert num_planned(place.output, place.options) == NUM_PHOTOS
    committed = num_committed(place.output, place.options)
    for _ in range(NUM_KILLS):
        killed, before = begin(), committed
        killed.wait_until(lambda before=before: num_committed(place.output, place.options) > before)
        killed.kill()
        committed = num_committed(place.output, place.options)
    assert 0 < committed < NUM_PHOTOS, "the kills came too late to show anything"
    kept = read_rows(place.output, place.options)

    verified = start("verify", place.output, env=place.env).wait()
    assert verified.exit_code == 1
    assert f"left to do: {NUM_PHOTOS - committed} of {NUM_PHOTOS} images; annotate" in verified.stderr

    # The settings that decide masks are the run's own; those that only divide the work are given again.
    arguments = ("--output", place.output, *SMALL_SHARDS, "--num-cpus", 1)
    resumed = start("annotate", *arguments, env=place.env).wait()
    assert "going on with the run's own settings: points_per_side=3, model_type='vit_t'" in resumed.stderr
    assert resumed.exit_code == 0, resumed.stderr
    assert f"annotated now  {NUM_PHOTOS - committed}\n" in resumed.stdout
    rows = read_rows(place.output, place.options)
    assert comparable(rows) == comparable(undisturbed.rows)
    assert [row for row in rows if row in kept] == kept
    verified = start("verify", place.output, env=place.env).wait()
    assert verified.exit_code == 0, verified.stderr


def test_a_run_that_was_overtaken_while_it_stood_still_stops_and_says_so(photos, start, undisturbed, tmp_path):
    output = str(tmp_path / "out")
    arguments = ("--input", photos, "--output", output, *SETTINGS, *SMALL_SHARDS, "--num-cpus", 2)
    overtaken = start("annotate", *arguments)
    overtaken.wait_until(lambda: num_committed(output) > 0)
    overtaken.driver().suspend()
    assert num_committed(output) < NUM_PHOTOS, "it stopped too late to show anything"

    newer = start("annotate", *arguments).wait()
    assert newer.exit_code == 0, newer.stderr
    overtaken.driver().resume()
    finished = overtaken.wait()

    assert finished.exit_code == 3, finished.stderr
    assert "error: another run took over" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert comparable(read_rows(output)) == comparable(undisturbed.rows)
    verified = start("verify", output).wait()
    assert verified.exit_code == 0, verified.stderr
