"""An output that the previous version wrote opens, verifies and is gone on with; see previous_version/README.md."""

import json
import shutil
from pathlib import Path

import pytest

from sam_pipeline.api import open_run
from sam_pipeline.config import AnnotateConfig
from sam_pipeline.pipeline import annotate as annotate_module
from sam_pipeline.pipeline.annotate import annotate
from sam_pipeline.storage.maintenance.vacuum import vacuum
from sam_pipeline.storage.maintenance.verify import verify
from sam_pipeline.storage.maintenance.watching import read_state
from sam_pipeline.storage.tables.plan import read_planned
from sam_pipeline.storage.tables.reading.run_header import read_header
from sam_pipeline.storage.tables.results import MaskTable
from tests.storage.runs import failed_row, shard

BY_STATUS = {"ok": 3, "decode_error": 1}


@pytest.fixture
def output(tmp_path):
    return str(shutil.copytree(Path(__file__).parent / "previous_version" / "run", tmp_path / "run"))


def test_its_status_and_its_rows_are_read(output):
    assert read_state(output, {}).num_by_status == BY_STATUS
    run = open_run(output)
    assert (run.num_images, run.num_done, run.num_by_status) == (5, 4, BY_STATUS)
    rows = sorted(run.rows(), key=lambda row: row["image_id"])
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "decode_error"]
    assert sum(len(row["masks"]) for row in rows) == run.num_masks > 0


def test_it_verifies_but_for_what_is_left(output):
    found = verify(output, {})
    assert (found.num_planned, found.num_rows, found.num_left) == (5, 4, 1)
    assert (found.num_lost, found.num_twice, found.num_bad_masks) == (0, 0, 0)


def test_a_start_goes_on_with_it_and_finishes_it(output):
    header = read_header(output, {})
    table = MaskTable.take_over(output, json.loads(header.metadata["fingerprint"]), header.metadata, {})
    assert table.committed_ids(5).tolist() == [True, True, True, True, False]
    (planned,) = read_planned(output, [4], {}).to_pylist()
    table.commit(
        [
            shard(
                output,
                [
                    failed_row(
                        4,
                        "fetch_error",
                    )
                    | {"uri": planned["uri"]}
                ],
            )
        ]
    )
    table.compact()
    assert verify(output, {}).ok
    vacuum(output, 1, {})
    assert open_run(output).num_by_status == BY_STATUS | {"fetch_error": 1}


def test_the_command_takes_its_settings_from_it(output, monkeypatch):
    class Prepared(Exception):  # noqa: N818  not an error
        """A start that would go on: with this model."""

    def prepare(run):
        raise Prepared(run.config.model.model_type)

    monkeypatch.setattr(annotate_module, "prepare_weights", prepare)
    with pytest.raises(Prepared, match="vit_t"):
        annotate(AnnotateConfig(output=output), make_display=None)
