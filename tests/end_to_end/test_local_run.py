"""A folder on local disk, annotated as a user would do it for the first time."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pycocotools import mask as coco_mask

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.model.registry import build_sam
from sam_pipeline.storage.tables.delta import TABLE_ID_KEY, sha256_in_name, table_id
from tests.end_to_end.pictures import HEIGHT, WIDTH, photo
from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS
from tests.end_to_end.tables import num_data_files, read_rows
from tests.stored_masks import NO_PROMPT

pytestmark = pytest.mark.weights

GIB = 2**30


def test_rows_hold_exactly_the_masks_of_the_generator(undisturbed, vit_t_checkpoint, one_thread):
    generator = MaskGenerator(build_sam("vit_t", vit_t_checkpoint), MaskConfig(points_per_side=3))
    assert [row["image_id"] for row in undisturbed.rows] == list(range(NUM_PHOTOS))
    assert sum(row["num_masks"] for row in undisturbed.rows) > NUM_PHOTOS
    for index, row in enumerate(undisturbed.rows):
        assert row["uri"] == f"file://{undisturbed.input}/{index:02}.png"
        assert (row["status"], row["error"], row["height"], row["width"]) == ("ok", None, HEIGHT, WIDTH)
        expected = [mask.to_dict() for mask in generator.generate(photo(index))]
        assert row["num_masks"] == len(row["masks"]) == len(expected)
        for mask, wanted in zip(row["masks"], expected, strict=True):
            scores = {name: pytest.approx(wanted[name], rel=1e-6) for name in ("predicted_iou", "stability_score")}
            assert mask == wanted | NO_PROMPT | scores  # scores are stored in single precision
            assert coco_mask.decode(mask["segmentation"]).sum() == mask["area"]


def test_a_finished_run_is_compacted_and_passes_verify(undisturbed, start):
    assert num_data_files(str(undisturbed.output)) == 1
    verified = start("verify", undisturbed.output).wait()
    assert verified.exit_code == 0, verified.stderr
    lines = dict(line.split(maxsplit=1) for line in verified.stdout.splitlines())
    assert (lines["rows"], lines["lost"], lines["twice"], lines["unsound"]) == (str(NUM_PHOTOS), "0", "0", "0")


def test_every_file_tells_its_table_and_its_checksum(undisturbed):
    """Shards of workers among them, which compaction has replaced."""
    for name in ("images", "masks"):
        folder = Path(undisturbed.output, name)
        files = list(folder.glob("*.parquet"))
        assert len(files) > (1 if name == "masks" else 0)
        for path in files:
            assert pq.read_metadata(path).metadata[TABLE_ID_KEY.encode()] == table_id(DeltaTable(folder)).encode()
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256_in_name(path.name)


def test_status_says_what_is_done_and_left(undisturbed, start):
    status = start("status", undisturbed.output).wait()
    assert status.exit_code == 0, status.stderr
    lines = dict(line.split(maxsplit=1) for line in status.stdout.splitlines())
    assert lines["images"] == str(NUM_PHOTOS)
    assert lines["done"] == f"{NUM_PHOTOS} ({NUM_PHOTOS} ok)"
    assert lines["left"] == "0"


def test_a_run_stays_under_six_gigabytes_of_memory(undisturbed, record_testsuite_property):
    record_testsuite_property("peak_memory_bytes", undisturbed.peak_memory_bytes)
    assert 0.5 * GIB < undisturbed.peak_memory_bytes < 6 * GIB


def test_a_second_start_changes_nothing_and_is_quick(undisturbed, start):
    again = start("annotate", "--input", undisturbed.input, "--output", undisturbed.output, *SETTINGS).wait()
    assert again.exit_code == 0, again.stderr
    assert "annotated now  0\n" in again.stdout
    assert read_rows(str(undisturbed.output)) == undisturbed.rows
    assert again.elapsed_s < undisturbed.finished.elapsed_s


def test_a_finished_run_needs_neither_its_settings_nor_weights(undisturbed, start, tmp_path):
    env = {"SAM_PIPELINE_CACHE": str(tmp_path / "empty")}
    again = start("annotate", "--output", undisturbed.output, env=env).wait()
    assert again.exit_code == 0, again.stderr
    assert "annotated now  0\n" in again.stdout
    assert not (tmp_path / "empty").exists()
    assert read_rows(str(undisturbed.output)) == undisturbed.rows


def test_a_changed_setting_is_refused_by_name(undisturbed, start):
    changed = (*SETTINGS, "--box-nms-thresh", 0.5, "--max-pixels", 10**6)
    refused = start("annotate", "--output", undisturbed.output, *changed).wait()
    assert refused.exit_code == 2
    assert "box_nms_thresh: 0.7 in the output, 0.5 now" in refused.stderr
    assert "max_pixels: 100000000 in the output, 1000000 now" in refused.stderr
    assert "points_per_side" not in refused.stderr
    assert read_rows(str(undisturbed.output)) == undisturbed.rows
