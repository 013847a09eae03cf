from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from sam_pipeline.errors import OutputError
from sam_pipeline.storage.tables import output_folder
from sam_pipeline.storage.tables.delta import create_table
from sam_pipeline.storage.tables.output_folder import check_output
from sam_pipeline.storage.tables.prompts import announce_prompts, write_prompts
from sam_pipeline.storage.tables.schema import PROMPTS_SCHEMA
from tests.storage.runs import finished, row

TABLES = ("images", "masks", "prompts")


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "ds")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "part-0.parquet", "_SUCCESS", "Größe 100%.png", "a\nb.jpg"])
def test_files_of_others_where_a_table_would_be_are_refused(output, table, name):
    path = Path(output, table, name)
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(OutputError, match=f"{table} holds .* and no table of this program") as caught:
        check_output(output, {})
    assert repr(name.split("/")[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", TABLES)
def test_a_delta_table_of_another_program_is_refused(output, table):
    DeltaTable.create(f"{output}/{table}", pa.schema([("image_id", pa.int64())]))
    with pytest.raises(OutputError, match="a Delta table of another program"):
        check_output(output, {})


@pytest.mark.parametrize("table", TABLES)
def test_a_file_in_the_place_of_a_table_is_refused(output, table):
    Path(output).mkdir()
    Path(output, table).touch()
    with pytest.raises(OutputError, match=f"cannot use output .*{table}"):
        check_output(output, {})


@pytest.mark.parametrize("name", [".DS_Store", ".hidden/a.jpg", "_delta_log/_commit_0.json.tmp"])
def test_hidden_files_and_the_log_of_a_table_that_was_never_made_are_none_of_them(output, name):
    path = Path(output, "images", name)
    path.parent.mkdir(parents=True)
    path.touch()
    check_output(output, {})


def test_nothing_and_the_tables_of_every_state_of_a_run_are_accepted(output):
    check_output(output, {})
    create_table(f"{output}/images", pa.schema([("image_id", pa.int64())]), {"input": "/in"}, {})
    announce_prompts(output, {})
    check_output(output, {})
    write_prompts(output, PROMPTS_SCHEMA.empty_table(), {}, 1, {})
    check_output(output, {})


def test_whatever_stands_beside_a_table_of_ours_does_not_stop_a_resume(output):
    finished(output, [row(0)])
    Path(output, "masks", "notes.txt").touch()
    check_output(output, {})


def test_a_table_that_another_start_makes_meanwhile_is_accepted(output, monkeypatch):
    finished(output, [row(0)])
    looks = []

    def open_table(uri, storage_options):
        looks.append(uri)
        return None if looks.count(uri) == 1 else output_folder_open(uri, storage_options)

    output_folder_open = output_folder.open_table
    monkeypatch.setattr(output_folder, "open_table", open_table)
    check_output(output, {})
    assert len(looks) > len(set(looks)), "no table was looked for twice"
