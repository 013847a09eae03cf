"""A large run as COCO: memory that does not grow with it, and a rate."""

import io
import re
import subprocess
import sys
import tarfile

import pytest

from tests.exports.large_runs import make_large_run
from tests.exports.pictures import picture, run_of

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


def measured(run, dest, *arguments):
    """What an export prints, its memory in bytes at most, and its seconds of CPUs, in a process of its own."""
    command = [sys.executable, "-c", MEASURED, "export", str(run), str(dest), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sys.stdout.write(done.stdout)
    kilobytes, cpu_s = re.search(r"memory (\d+) kB, ([\d.]+) s", done.stdout).groups()
    return done.stdout, int(kilobytes) * 1024, float(cpu_s)


@pytest.mark.soak
@pytest.mark.slow
def test_a_hundred_thousand_images_take_less_than_a_gigabyte(tmp_path):
    make_large_run(str(tmp_path / "run"), NUM_IMAGES, MASKS_PER_IMAGE)
    printed, num_bytes, cpu_s = measured(tmp_path / "run", tmp_path / "coco", "--format", "coco")
    assert f"{NUM_IMAGES * MASKS_PER_IMAGE}" in printed
    assert num_bytes < 1e9
    # Of CPU time, so that it does not matter what else the machine does.
    assert NUM_IMAGES / cpu_s > 2000
    with (tmp_path / "coco" / "annotations.json").open("rb") as file:
        file.seek(-4, 2)
        assert file.read() == b"}]}\n"


@pytest.mark.soak
@pytest.mark.slow
def test_images_with_very_many_masks_take_less_than_a_gigabyte(tmp_path):
    """As many as the protocol for LVIS keeps."""
    make_large_run(str(tmp_path / "run"), 1024, masks_per_image=900)
    for form in ("coco", "coco-results", "sa1b"):
        assert measured(tmp_path / "run", tmp_path / form, "--format", form)[1] < 1e9


@pytest.mark.soak
@pytest.mark.slow
def test_a_large_val_takes_less_than_a_gigabyte(tmp_path):
    """A part has as many images as a shard."""
    make_large_run(str(tmp_path / "run"), 16_384, 200)
    arguments = ["--format", "coco", "--split", "0.1", "--shard-images", "16384"]
    assert measured(tmp_path / "run", tmp_path / "coco", *arguments)[1] < 1e9


def in_reversed_tar(place, files):
    with tarfile.open(place / "images.tar", "w") as archive:
        for name, data in reversed(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return place / "images.tar"


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["webdataset"], ["hf"], ["coco", "--images", "copy"], ["yolo-box", "--images", "copy"]], ids=str
)
def test_images_of_an_archive_in_another_order_take_half_a_gigabyte(tmp_path, arguments):
    """A batch of them is 1.3 GB."""
    data = picture(0, "PNG") + bytes(6 << 20)
    run = run_of(tmp_path, {f"{number:04}.png": data for number in range(200)}, in_reversed_tar, masks=[[]] * 200)
    assert measured(run, tmp_path / "export", "--format", *arguments)[1] < 0.5e9
