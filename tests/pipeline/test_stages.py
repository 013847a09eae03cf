import numpy as np
import pytest

from sam_pipeline.config import AnnotateConfig, MaskConfig, PlanConfig
from sam_pipeline.pipeline import stages
from sam_pipeline.pipeline.columns import IMAGES, chunks_of, crops_by_image, shards_of
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.stages import read_images, write_shard
from sam_pipeline.storage import fetching
from sam_pipeline.storage.image_reading import TooLargeError
from sam_pipeline.storage.mask_table import iterate_rows
from tests.pipeline.jobs import Monitor, job_of
from tests.storage.image_files import noise, saved
from tests.storage.runs import results_table, row, take_over


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
    ensure_plan(PlanConfig(output, str(folder)))
    config = AnnotateConfig(output, max_pixels=10_000, masks=MaskConfig(**masks))
    return job_of(config)


def read(job, ids):
    return [table for chunk in chunks_of(np.array(ids), 100) for table in read_images(chunk, job, Monitor())]


def test_every_image_is_one_row_whatever_its_fate(folder):
    job = job_for(folder)
    (folder / "3-changed.png").write_bytes(b"shorter")
    (folder / "4-gone.png").unlink()
    tables = read(job, range(6))
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


def test_an_object_too_large_to_fetch_is_a_row(folder, monkeypatch):
    job = job_for(folder)
    monkeypatch.setattr(fetching, "MAX_IMAGE_BYTES", 10)
    (table,) = read(job, [0])
    assert (table["status"][0].as_py(), table["height"][0].as_py()) == ("too_large", None)
    assert table["error"][0].as_py().endswith("the limit is 10")


@pytest.mark.parametrize("where", ["fetching", "decoding"])
def test_a_worker_without_memory_is_not_the_images_fault(folder, monkeypatch, where):
    def without_memory(*_, **__):
        raise TooLargeError("not enough memory") from MemoryError()

    if where == "fetching":
        monkeypatch.setattr(stages, "fetch_images", lambda images, *_: [MemoryError() for _ in images])
    else:
        monkeypatch.setattr(stages, "decode_image", without_memory)
    with pytest.raises(MemoryError):
        read(job_for(folder), [0])


def test_only_pending_images_are_read(folder):
    tables = read(job_for(folder), [0, 5])
    assert [table["image_id"][0].as_py() for table in tables] == [0, 5]


def test_images_are_cut_into_crops_and_resized_for_the_encoder(folder):
    (table,) = read(job_for(folder, crop_n_layers=1), [0])
    crops = crops_by_image(table)[0]
    assert len(crops) == 5
    assert {max(crop.shape[:2]) for crop in crops} == {1024}


def test_more_images_than_are_fetched_at_once_keep_their_order(folder):
    for index in range(20):
        (folder / f"a-{index:02}.png").write_bytes(saved(noise(4, 4 + index), "PNG"))
    tables = read(job_for(folder), range(6, 26))
    assert [table["width"][0].as_py() for table in tables] == list(range(4, 24))


def test_a_written_shard_can_be_committed_from_its_descriptor(folder):
    job = job_for(folder)
    table = take_over(job.output)
    (shard,) = shards_of(write_shard(results_table([row(1), row(0)]), job, Monitor()))
    table.commit([shard])
    assert table.committed_ids(3).tolist() == [True, True, False]
    assert [row["image_id"] for batch in iterate_rows(job.output, {}) for row in batch.to_pylist()] == [0, 1]
