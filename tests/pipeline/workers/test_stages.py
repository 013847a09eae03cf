import sys
import time
from dataclasses import asdict, replace

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.config import AnnotateConfig, MaskConfig
from sam_pipeline.errors import InputError
from sam_pipeline.masks.prompts import UnusablePrompt
from sam_pipeline.masks.records import PromptedMaskRecord
from sam_pipeline.pipeline.job import Backend
from sam_pipeline.pipeline.monitor import BlockStart, report_time
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.workers import stages
from sam_pipeline.pipeline.workers.columns import (
    EMBEDDINGS,
    IMAGES,
    chunks_of,
    crops_by_image,
    shards_of,
    unpack_prompts,
)
from sam_pipeline.pipeline.workers.stages import Decoder, Encoder, decode_masks, read_images, write_shard
from sam_pipeline.storage.inputs import fetching
from sam_pipeline.storage.inputs.decoding.image_reading import TooLargeError
from sam_pipeline.storage.tables.prompts import write_prompts
from sam_pipeline.storage.tables.reading.result_reading import read_results
from sam_pipeline.storage.tables.results import open_results
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA
from tests.configs import plan_config
from tests.pipeline.jobs import Monitor, job_of
from tests.pipeline.reading import read_tables
from tests.storage.image_files import noise, saved
from tests.storage.runs import mask, results_table, row, take_over
from tests.stored_masks import NO_PROMPT


@pytest.fixture
def folder(tmp_path):
    """One image of each fate, in the order of their names."""
    files = {
        "0-fine.png": saved(noise(30, 40), "PNG"),
        "1-text.jpg": b"no image",
        "2-large.png": saved(noise(101, 100), "PNG"),
        "3-changed.png": saved(noise(), "PNG"),
        "4-gone.png": saved(noise(), "PNG"),
        "5-fine[1].jpg": saved(noise(50, 20), "JPEG"),
    }
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    return tmp_path / "in"


def job_for(folder, **masks):
    output = str(folder.parent / "run")
    ensure_plan(plan_config(output=output, input=str(folder)))
    config = AnnotateConfig(output=output, max_pixels=10_000, masks=MaskConfig(**masks))
    return job_of(config)


def test_every_image_is_one_row_whatever_its_fate(folder):
    job = job_for(folder)
    (folder / "3-changed.png").write_bytes(b"shorter")
    (folder / "4-gone.png").unlink()
    tables = read_tables(range(6), job)
    assert all(table.num_rows == 1 and table.schema == IMAGES for table in tables)
    rows = [table.drop_columns("crops").to_pylist()[0] for table in tables]
    assert [row["image_id"] for row in rows] == list(range(6))
    assert [row["status"] for row in rows] == ["ok", "decode_error", "too_large", "changed", "fetch_error", "ok"]
    assert [(row["height"], row["width"]) for row in rows] == [(30, 40), *[(None, None)] * 4, (50, 20)]
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, True, False]
    assert "b'no image'" in rows[1]["error"]
    assert rows[2]["error"] == "100x101 pixels, the limit is 10000"
    assert rows[3]["error"].endswith("bytes, now 7")
    assert rows[4]["error"].startswith("FileNotFoundError: ")
    assert [[len(crops) for crops in crops_by_image(table)] for table in tables] == [[1], [0], [0], [0], [0], [1]]


@pytest.mark.parametrize("is_there", [True, False])
def test_images_are_gone_only_where_their_disk_is_seen(folder, is_there):
    job = replace(job_for(folder), images_folder=str(folder))
    for path in folder.glob("*"):
        if not is_there or path.name == "4-gone.png":
            path.unlink()
    planned = stages.planned_images(np.array([4]), job)
    if is_there:
        (answer,) = stages.fetch_planned(planned, job)
        assert isinstance(answer, FileNotFoundError)
    else:
        with pytest.raises(InputError, match=f"does not see {folder}"):
            list(stages.fetch_planned(planned, job))


def test_an_object_too_large_to_fetch_is_a_row(folder, monkeypatch):
    job = job_for(folder)
    monkeypatch.setattr(fetching, "MAX_IMAGE_BYTES", 10)
    (table,) = read_tables([0], job)
    assert (table["status"][0].as_py(), table["height"][0].as_py()) == ("too_large", None)
    assert table["error"][0].as_py().endswith("the limit is 10")


@pytest.mark.parametrize("where", ["fetching", "decoding"])
def test_a_worker_without_memory_is_not_the_images_fault(folder, monkeypatch, where):
    def without_memory(*_, **__):
        raise TooLargeError("not enough memory") from MemoryError()

    if where == "fetching":
        monkeypatch.setattr(stages, "fetch_images", lambda images, *_, **__: [MemoryError() for _ in images])
    else:
        monkeypatch.setattr(stages, "decode_image", without_memory)
    with pytest.raises(MemoryError):
        read_tables([0], job_for(folder))


def test_images_come_in_blocks_of_a_batch_and_what_is_left(folder):
    tables = read_tables(range(6), job_for(folder), block_images=4)
    assert [table["image_id"].to_pylist() for table in tables] == [[0, 1, 2, 3], [4, 5]]


def test_only_pending_images_are_read(folder):
    tables = read_tables([0, 5], job_for(folder))
    assert [table["image_id"][0].as_py() for table in tables] == [0, 5]


def test_images_are_cut_into_crops_and_resized_for_the_encoder(folder):
    (table,) = read_tables([0], job_for(folder, crop_n_layers=1))
    crops = crops_by_image(table)[0]
    assert len(crops) == 5
    assert {max(crop.shape[:2]) for crop in crops} == {1024}


def test_more_images_than_are_fetched_at_once_keep_their_order(folder):
    for index in range(20):
        (folder / f"a-{index:02}.png").write_bytes(saved(noise(4, 4 + index), "PNG"))
    tables = read_tables(range(6, 26), job_for(folder))
    assert [table["width"][0].as_py() for table in tables] == list(range(4, 24))


def test_the_time_of_reading_is_told_by_block_without_that_of_who_takes_the_blocks(folder):
    monitor, job = Monitor(), job_for(folder)
    for _ in read_images(next(iter(chunks_of(np.arange(6), 6))), job, 4, monitor):
        time.sleep(0.5)
    (first, last) = (told for told in monitor.told if told[0] == "add_time")
    assert (first[1:3], last[1:3]) == (("read", 4), ("read", 2))
    assert 0 < last[3] < 0.5
    assert 0 < last[4] < 0.5


def test_waiting_is_no_time_of_a_cpu():
    monitor, start = Monitor(), BlockStart()
    time.sleep(0.5)
    report_time(monitor, "a run", "read", 1, start)
    _, _, _, busy_s, cpu_s = monitor.told[0]
    assert cpu_s < 0.4 < busy_s


def test_a_shard_of_a_sample_is_written_and_nothing_is_left_of_it(folder):
    job = replace(job_for(folder), is_sample=True)
    table = take_over(job.output)
    masks = folder.parent / "run" / "masks"
    files, in_memory = set(masks.rglob("*")), fsspec.filesystem("memory").find("/")
    (shard,) = shards_of(write_shard(results_table([row(0), row(1)]), replace(job, table_id=table.id), Monitor()))
    assert (shard.file.num_rows, shard.file.size_bytes > 100) == (2, True)
    assert set(masks.rglob("*")) == files
    assert fsspec.filesystem("memory").find("/") == in_memory


def test_a_written_shard_can_be_committed_from_its_descriptor(folder):
    job = job_for(folder)
    table = take_over(job.output)
    (shard,) = shards_of(write_shard(results_table([row(1), row(0)]), job, Monitor()))
    table.commit([shard])
    assert table.committed_ids(3).tolist() == [True, True, False]
    rows = read_results(open_results(job.output, {}), ["image_id"], None, {})
    assert rows["image_id"].to_pylist() == [0, 1]


BOX = {"role": "prompt", "prompt_id": 4, "is_relative": False, "box_xyxy": [1.0, 2.0, 20.0, 25.0], "category_id": 3}


def with_prompts(folder, rows, mode):
    """A job whose images 0 and 5, both of which can be read, may have prompts."""
    job = job_for(folder, crop_n_layers=1)
    table = pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA)
    write_prompts(job.output, table, {}, 6, {})
    return replace(job, mode=mode, has_prompts=True)


def test_prompts_travel_with_their_image_which_needs_no_crops(folder):
    job = with_prompts(folder, [{"image_id": 5, **BOX}], "prompted")
    without, with_one = read_tables([0, 5], job)
    assert without["prompts"].to_pylist() == [None]
    assert [len(crops) for crops in crops_by_image(without)] == [0], "nothing is asked for"
    (prompt,) = unpack_prompts(with_one["prompts"][0].as_py())
    assert {name: prompt[name] for name in BOX} == BOX
    assert [len(crops) for crops in crops_by_image(with_one)] == [1]
    both = read_tables([0, 5], replace(job, mode="both"))
    assert [[len(crops) for crops in crops_by_image(table)] for table in both] == [[5], [5]]


EMPTY = UnusablePrompt("prompt", 5, "its mask is empty")


class Answering:
    """An engine that gives each prompt a mask, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def decode(self, images):
        self.asked = list(images)
        return [[mask_of(prompt) for prompt in image.prompts.prompts] for image in self.asked]


def mask_of(prompt):
    record = {name: value for name, value in mask(0).items() if name not in NO_PROMPT}
    record |= {"point_coords": ((3.0, 4.0),), "prompt_id": prompt.prompt_id, "prompt_box": (1.0, 2.0, 9.0, 9.0)}
    return PromptedMaskRecord(**record, point_labels=(1,), category_id=prompt.category_id, score=prompt.score)


def test_a_prompt_whose_mask_is_empty_is_answered_by_an_error(folder):
    rows = [{"image_id": 0, **BOX}, {"image_id": 0, **BOX, "prompt_id": 5}]
    job = with_prompts(folder, rows, "prompted")
    images = pa.concat_tables(read_tables([0], job))
    embeddings = images.drop_columns(["crops"]).append_column("image_embeddings", pa.array([[b"x"]], EMBEDDINGS))
    engine = Answering()
    engine.decode = lambda images: [[mask_of(image.prompts.prompts[0]), EMPTY] for image in images]
    (row,) = decode_masks(embeddings, engine, job).to_pylist()
    assert [mask["prompt_id"] for mask in row["masks"]] == [4]
    assert (row["num_masks"], row["prompt_errors"]) == (1, [asdict(EMPTY)])


def test_prompts_are_brought_to_the_image_and_those_that_cannot_be_used_are_said(folder):
    outside = {**BOX, "prompt_id": 7, "box_xyxy": [90.0, 90.0, 99.0, 99.0]}
    job = with_prompts(folder, [{"image_id": 0, **BOX}, {"image_id": 0, **outside}, {"image_id": 1, **BOX}], "prompted")
    images = pa.concat_tables(read_tables([0, 1], job))
    embeddings = images.drop_columns(["crops"]).append_column("image_embeddings", pa.array([[b"x"], []], EMBEDDINGS))
    engine = Answering()
    rows = decode_masks(embeddings, engine, job).to_pylist()
    assert engine.asked[0].original_size == (30, 40)
    assert [prompt.box_xyxy for prompt in engine.asked[0].prompts.prompts] == [(1, 2, 20, 25)]
    assert engine.asked[1].prompts.prompts == (), "of an image that could not be read"
    (found,) = rows[0]["masks"]
    assert (found["prompt_id"], found["category_id"], found["score"]) == (4, 3, None)
    assert (found["prompt_box"], found["point_labels"]) == ([1, 2, 9, 9], [1])
    (error,) = rows[0]["prompt_errors"]
    assert (error["role"], error["prompt_id"]) == ("prompt", 7)
    assert (rows[1]["status"], rows[1]["prompt_errors"]) == ("decode_error", None)


class LargeEngine:
    """Takes more memory when it is loaded than a worker may take for images."""

    def __init__(self, job, role):
        self.weights = np.ones(5 * 10**8, np.uint8)

    def decode(self, images):
        self.of_images = np.ones(5 * 10**8, np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_DATA")
def test_what_images_take_is_limited_and_what_the_engine_takes_is_not():
    job = job_of(worker_memory_bytes=2 * 10**8, backend=Backend(None, LargeEngine))
    for actor in (Encoder(job, 1, Monitor()), Decoder(job, Monitor())):
        with pytest.raises(MemoryError):
            actor._engine.decode([])
