"""Images that kill, hang or exhaust their workers: each ends as a row, and takes no other image with it."""

import pytest

from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import Instructions

pytestmark = [pytest.mark.s3, pytest.mark.slow]

LIMITS = ("--image-timeout-s", 4, "--worker-memory-gb", 1)

WHITE = 0xFFFFFF
"""The number of the blank image."""

POISON = {
    3: ("prepare", "crash"),
    8: ("encode", "crash"),
    13: ("decode", "crash"),
    18: ("prepare", "allocate"),
    23: ("decode", "hang"),
    28: ("encode", "raise"),
    33: ("decode", "lose"),
}
ERRORS = {
    3: "the process was ended by signal 11 (SIGSEGV) while reading the image",
    8: "the process was ended by signal 11 (SIGSEGV) while encoding it",
    13: "the process was ended by signal 11 (SIGSEGV) while finding its masks",
    18: "MemoryError: Unable to allocate",
    23: "the process took more than 4 s and was killed while finding its masks",
    28: "RuntimeError: image 28 is poison",
    33: "AcceleratorError: CUDA error: an illegal memory access was encountered",
}
"""How the errors of their rows begin."""


@pytest.mark.soak  # pipeline/workers/test_isolation.py loses a device too
def test_a_gpu_that_fails_once_costs_no_image(run, cluster, tmp_path):
    once = {stage: tmp_path / stage for stage in ("encode", "decode")}
    for file in once.values():
        file.touch()
    poison = {"3": ("encode", "lose", str(once["encode"])), "9": ("decode", "lose", str(once["decode"]))}
    finished = run.annotate(address=cluster, instructions=Instructions(poison=poison)).wait()
    assert finished.exit_code == 0, finished.stderr
    assert not any(file.exists() for file in once.values())
    run.assert_rows()
    assert sorted(run.decoded_numbers()) == list(range(NUM_IMAGES))
    assert len(list(run.log.iterdir())) == 4, "an encoder and a decoder, each started twice, and nothing tried alone"


# All of them take a minute. The two end workers that read and that encode; others are in pipeline/workers.
@pytest.mark.parametrize(
    "numbers", [pytest.param(tuple(POISON), id="all", marks=pytest.mark.soak), pytest.param((3, 8), id="two")]
)
def test_poison_images_end_as_rows_that_say_why_and_all_others_are_done(run, cluster, numbers):
    instructions = Instructions(poison={str(number): POISON[number] for number in numbers})
    finished = run.annotate(*LIMITS, address=cluster, instructions=instructions).wait()
    assert finished.exit_code == 0, finished.stderr
    # Of each worker that dies Ray says so; where the summary is, it says nothing.
    assert "Ray: " in finished.stderr
    assert finished.stdout.startswith("output ")
    assert "retries remaining" not in finished.stdout
    run.assert_complete(but=dict.fromkeys(numbers, "worker_crashed"))
    errors = {row["image_id"]: row["error"] for row in run.rows() if row["error"]}
    assert errors.keys() == set(numbers)
    for number in numbers:
        assert errors[number].startswith(ERRORS[number])


def test_where_nothing_works_the_run_stops_and_says_so(run, cluster):
    numbers = [*range(NUM_IMAGES), WHITE]
    instructions = Instructions(poison={str(number): ("decode", "raise") for number in numbers})
    finished = run.annotate(address=cluster, instructions=instructions).wait()
    assert finished.exit_code == 1, finished.stderr
    assert "cannot annotate even a blank image: RuntimeError: image" in finished.stderr.splitlines()[-1]
    assert run.num_committed() == 0
