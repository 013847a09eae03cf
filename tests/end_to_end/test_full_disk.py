"""An output that fills up in mid-run: one clear line, and nothing lost once there is room."""

import subprocess

import psutil
import pytest

from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import comparable, num_committed, read_rows

pytestmark = [pytest.mark.weights, pytest.mark.slow]

SHARD_BYTES = 4096
"""Less than any shard takes."""


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for the plan and a few shards, and a function that makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=80k"):
        pytest.skip("only root may mount a file system")
    yield folder, lambda: mount("remount,size=64m")
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.soak
def test_a_disk_that_fills_up_is_one_line_and_with_room_the_run_ends_complete(small_disk, begin, undisturbed):
    folder, make_room = small_disk
    output = str(folder / "out")
    failed = begin(output).wait()
    assert_write_failed(failed, "No space left on device")
    kept = read_rows(output)
    assert 0 < len(kept) < NUM_PHOTOS
    assert make_room()
    resumed = begin(output).wait()
    assert resumed.exit_code == 0, resumed.stderr
    assert f"annotated now  {NUM_PHOTOS - len(kept)}\n" in resumed.stdout
    rows = read_rows(output)
    assert [row for row in rows if row in kept] == kept
    assert comparable(rows) == comparable(undisturbed.rows)


@pytest.mark.soak
def test_workers_that_can_no_longer_write_end_the_run_with_one_line(begin, tmp_path):
    output = str(tmp_path / "out")
    program = begin(output)
    program.wait_until(lambda: num_committed(output) > 0)
    # Only root can make a disk to fill, but anybody may forbid their own processes files beyond some size.
    failed = program.wait(watch=lambda: limit_files_of_workers(program))
    assert_write_failed(failed, "File too large")
    assert 0 < num_committed(output) < NUM_PHOTOS


@pytest.fixture
def begin(start, photos):
    """Start, or resume, a run to an output."""

    def begin_run(output):
        arguments = ("--input", photos, "--output", output, *SETTINGS, *SMALL_SHARDS, "--num-cpus", 2)
        return start("annotate", *arguments)

    return begin_run


def limit_files_of_workers(program):
    for process in program.members():
        try:
            if process.name().startswith("ray::"):
                process.rlimit(psutil.RLIMIT_FSIZE, (SHARD_BYTES, SHARD_BYTES))
        except psutil.NoSuchProcess:
            continue


def assert_write_failed(failed, clue):
    assert failed.exit_code == 2, failed.stderr
    last_line = failed.stderr.splitlines()[-1]
    assert last_line.startswith("error: cannot ")
    assert clue in last_line
    assert "Traceback" not in failed.stderr + failed.stdout
