"""The process that one image has alone: what it fetches is limited too, and whatever ends it becomes a row."""

import pytest

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.errors import RunFailedError
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.workers.columns import shards_of
from sam_pipeline.pipeline.workers.isolation import IsolatedAnnotator, _Child
from tests.configs import plan_config
from tests.end_to_end.tables import read_rows
from tests.faults.fake_engine import Instructions, fake_backend, image_file
from tests.pipeline.jobs import Monitor, job_of
from tests.processes import PeakMemory
from tests.storage.runs import take_over

LIMIT_BYTES = 800 * 10**6


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def job_for(folder, instructions=None, **changes):
    output = str(folder.parent / "run")
    ensure_plan(plan_config(output=output, input=str(folder)))
    return job_of(AnnotateConfig(output=output), backend=fake_backend(instructions or Instructions()), **changes)


def alone(job, image_ids):
    """The rows of images, done alone one after another."""
    table = take_over(job.output)
    annotator = IsolatedAnnotator(job, Monitor())
    shards = [shard for image_id in image_ids for shard in shards_of(annotator.annotate(image_id))]
    table.commit(shards)
    return read_rows(job.output)


def test_an_image_that_is_too_large_for_the_memory_of_a_worker_ends_as_a_row(folder):
    with (folder / "0.png").open("wb") as file:
        file.truncate(2**30)  # sparse
    (folder / "1.png").write_bytes(image_file(1))
    with PeakMemory() as peak:
        large, other = alone(job_for(folder, worker_memory_bytes=LIMIT_BYTES), [0, 1])
    assert other["error"] is None
    assert (large["status"], other["status"]) == ("worker_crashed", "ok")
    assert large["error"].startswith("MemoryError")
    assert 0 < peak.num_bytes < LIMIT_BYTES + 300 * 10**6


def test_a_device_that_is_lost_with_one_image_costs_no_other(folder, tmp_path):
    for number in range(4):
        (folder / f"{number}.png").write_bytes(image_file(number))
    (once := tmp_path / "once").touch()
    instructions = Instructions(poison={"0": ("decode", "lose"), "2": ("encode", "lose", str(once))})
    rows = alone(job_for(folder, instructions), range(4))
    assert not once.exists()
    assert [row["status"] for row in rows] == ["worker_crashed", "ok", "ok", "ok"]
    assert rows[0]["error"].startswith("AcceleratorError: CUDA error: an illegal memory access was encountered")


def test_a_machine_that_has_lost_its_device_is_not_taken_for_a_bad_image(folder):
    (folder / "0.png").write_bytes(image_file(0))
    instructions = Instructions(poison={str(0xFFFFFF): ("encode", "lose")})
    with pytest.raises(RunFailedError, match="cannot annotate even a blank image: AcceleratorError: CUDA error"):
        _Child(job_for(folder, instructions))
