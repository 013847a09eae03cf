"""A large run as COCO: memory that does not grow with it, and a rate."""

import re
import subprocess
import sys

import pytest

from tests.exports.large_runs import make_large_run

NUM_IMAGES, MASKS_PER_IMAGE = 100_000, 60

# What the process itself says: getrusage counts for a child what its parent had before it began.
MEASURED = """
import re, sys, time
from sam_pipeline.cli.commands import main
try:
    main(sys.argv[1:])
finally:
    kilobytes = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
    print(f"memory {kilobytes} kB, {time.process_time():.1f} s of CPUs")
"""


@pytest.mark.soak
@pytest.mark.slow
def test_a_hundred_thousand_images_take_less_than_a_gigabyte(tmp_path):
    make_large_run(str(tmp_path / "run"), NUM_IMAGES, MASKS_PER_IMAGE)
    arguments = ["export", str(tmp_path / "run"), str(tmp_path / "coco"), "--format", "coco"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True)
    sys.stdout.write(done.stdout)
    assert f"{NUM_IMAGES * MASKS_PER_IMAGE}" in done.stdout
    kilobytes, cpu_s = re.search(r"memory (\d+) kB, ([\d.]+) s", done.stdout).groups()
    assert int(kilobytes) * 1024 < 1e9
    # Of CPU time, so that it does not matter what else the machine does.
    assert NUM_IMAGES / float(cpu_s) > 2000
    with (tmp_path / "coco" / "annotations.json").open("rb") as file:
        file.seek(-4, 2)
        assert file.read() == b"}]}\n"
