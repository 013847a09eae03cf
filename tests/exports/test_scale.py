"""A large run as COCO: memory that does not grow with it, and a rate."""

import resource
import subprocess
import sys

import pytest

from tests.exports.large_runs import make_large_run

NUM_IMAGES, MASKS_PER_IMAGE = 100_000, 60


@pytest.mark.soak
@pytest.mark.slow
def test_a_hundred_thousand_images_take_less_than_a_gigabyte(tmp_path):
    make_large_run(str(tmp_path / "run"), NUM_IMAGES, MASKS_PER_IMAGE)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sam_pipeline", "export", tmp_path / "run", tmp_path / "coco", "--format", "coco"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(f"{done.stdout}CPU time      {cpu_s:.0f} s, memory {after.ru_maxrss / 2**20:.2f} GiB\n")
    assert f"{NUM_IMAGES * MASKS_PER_IMAGE}" in done.stdout
    assert after.ru_maxrss * 1024 < 1e9
    # Of CPU time, so that it does not matter what else the machine does.
    assert NUM_IMAGES / cpu_s > 2000
    with (tmp_path / "coco" / "annotations.json").open("rb") as file:
        file.seek(-4, 2)
        assert file.read() == b"}]}\n"
