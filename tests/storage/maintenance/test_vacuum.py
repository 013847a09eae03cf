import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sam_pipeline.errors import ConfigError, FencedError, OutputError
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.maintenance import vacuum as vacuum_module
from sam_pipeline.storage.maintenance.vacuum import Vacuumed, vacuum
from sam_pipeline.storage.maintenance.verify import verify
from sam_pipeline.storage.tables import delta, fenced_table
from sam_pipeline.storage.tables.delta import create_table
from sam_pipeline.storage.tables.fenced_table import FencedTable, put_parquet
from sam_pipeline.storage.tables.plan import extend_plan, read_plan, read_planned, write_plan
from sam_pipeline.storage.tables.prompts import (
    announce_prompts,
    extend_prompts,
    read_prompts_header,
    write_prompts,
)
from sam_pipeline.storage.tables.reading.prompt_reading import read_image_prompts
from sam_pipeline.storage.tables.schema import IMAGES_SCHEMA, MASKS_SCHEMA, PROMPTS_SCHEMA
from tests.storage.runs import failed_row, finished, plan, row, shard, take_over
from tests.storage.tables.test_results import as_stored, files, stored

ROWS = [row(0), row(1, 0), failed_row(2), row(3, 3), row(4, 1)]
NEW = source_table([SourceObject("file:///in/new.jpg", 1, "e")])
NOTHING_CHANGED = IMAGES_SCHEMA.empty_table()


@pytest.fixture
def output(tmp_path):
    return str(tmp_path)


def age(output, hours):
    """Make every data file as old as if it had been put then."""
    for path in Path(output).glob("*/*.parquet"):
        os.utime(path, (time.time() - hours * 3600,) * 2)


def removed(output, hours=1):
    return vacuum(output, hours, {}).num_removed


def data_files(output, table="masks"):
    return {path.name for path in Path(output, table).glob("*.parquet")}


def committed_data_files(output):
    return {file.rsplit("/", 1)[1] for file in files(output)}


def test_a_vacuum_removes_orphans_and_what_was_replaced_and_nothing_else(output, monkeypatch):
    finished(output, ROWS)
    orphans = {shard(output, [row(7)]).file.path for _ in range(2)}
    three_hours_ago = time.time() - 3 * 3600
    with monkeypatch.context() as patch:
        patch.setattr(
            fenced_table, "time", SimpleNamespace(time=lambda: three_hours_ago)
        )  # when the shards were replaced
        take_over(output).compact()
    age(output, 2)
    kept = committed_data_files(output)
    assert len(kept) == 1
    assert len(data_files(output)) == 5
    assert removed(output, 4) == 0
    young = shard(output, [row(8)]).file.path
    assert removed(output) == 4
    assert data_files(output) == kept | {young}
    assert not orphans & kept
    assert stored(output) == as_stored(ROWS)
    assert removed(output) == 0


def test_a_vacuum_removes_what_planners_left_once_there_is_a_plan(output):
    take_over(output)
    uri = f"{output}/images"
    create_table(uri, IMAGES_SCHEMA, {"input": "/in"}, {})
    rows = source_table([SourceObject("a", 1, "e")]).add_column(0, IMAGES_SCHEMA.field("image_id"), pa.array([0]))
    put_parquet(uri, rows, {}, row_group_size=1, table_id=delta.table_id(DeltaTable(uri)))
    age(output, 2)
    assert removed(output) == 0
    plan(output, 3)
    assert removed(output) == 1
    assert read_planned(output, range(0, 9), {}).num_rows == 3


def test_a_vacuum_fences_a_run_whose_shard_it_removed(output):
    running = take_over(output)
    waiting = shard(output, ROWS)
    age(output, 2)
    assert removed(output) == 1
    with pytest.raises(FencedError):
        running.commit([waiting])
    assert stored(output) == []


def test_a_vacuum_that_stood_still_while_another_run_worked_removes_nothing(output, monkeypatch):
    finished(output, ROWS)
    find = vacuum_module.find_unused_files

    def find_late(table, *arguments, **options):
        if not table.table_uri.rstrip("/").endswith("masks"):
            return find(table, *arguments, **options)
        results = take_over(output)
        made = shard(output, [row(5)])
        age(output, 2)
        found = find(table, *arguments, **options)
        assert found.removable == [made.file.path]
        results.commit([made])
        return found

    monkeypatch.setattr(vacuum_module, "find_unused_files", find_late)
    with pytest.raises(FencedError):
        vacuum(output, 1, {})
    assert len(stored(output)) == 6


def test_a_vacuum_keeps_an_hour_whatever_is_asked(output):
    take_over(output)
    with pytest.raises(ConfigError, match=r"retention_hours must be in \[1, 876000\], got 0"):
        vacuum(output, 0, {})


def test_a_vacuum_leaves_links_fifos_and_folders_with_names_of_ours_alone(output):
    finished(output, ROWS)
    age(output, 2)
    put = next(Path(output, "masks").glob("*.parquet"))
    names = [Path(output, "masks", f"part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a00{i}-{64 * 'b'}.parquet") for i in range(4)]
    names[0].symlink_to(put)
    names[1].symlink_to("/nowhere")
    os.mkfifo(names[2])
    names[3].mkdir()
    assert vacuum(output, 1, {}) == Vacuumed(0, 4)
    assert [os.path.lexists(name) for name in names] == [True] * 4
    assert stored(output) == as_stored(ROWS)


@pytest.mark.parametrize("of_another_program", [False, True])
def test_where_there_are_no_results_nothing_is_cleaned(output, of_another_program):
    plan(output, 2)
    if of_another_program:
        DeltaTable.create(f"{output}/masks", MASKS_SCHEMA)
    with pytest.raises(OutputError, match="a Delta table of another program" if of_another_program else "no results"):
        vacuum(output, 1, {})


FOREIGN_NAMES = (
    "photograph.jpg",
    "sub/photograph.jpg",
    "_SUCCESS",
    "line\nbreak.jpg",
    "part-photograph.parquet",
    "part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001.jpg",
    "part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001.parquet",
    f"part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001-{64 * 'a'}.parquet",
    f"other/part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001-{64 * 'a'}.parquet",
    "Größe und Maß 100%.png",
)
UNSEEN_NAMES = (".DS_Store", ".hidden/a.jpg", "_delta_log/notes.txt")


@pytest.mark.parametrize("table", ["images", "masks", "prompts"])
def test_what_this_program_did_not_write_is_left_alone_and_counted(output, table):
    finished(output, ROWS)
    write_prompts(output, PROMPTS_SCHEMA.empty_table(), {}, 5, {})
    foreign = {Path(output, table, name): name.encode() for name in (*FOREIGN_NAMES, *UNSEEN_NAMES)}
    for path, content in foreign.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    foreign_parquet = Path(output, table, f"part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a002-{64 * 'b'}.parquet")
    pq.write_table(pa.table({"image_id": [0]}), foreign_parquet)
    for path in (foreign_parquet, *foreign):
        os.utime(path, (0, 0))
    orphan = shard(output, [row(7)]).file.path
    age(output, 2)
    assert vacuum(output, 1, {}) == Vacuumed(1, len(FOREIGN_NAMES) + 1)
    assert orphan not in data_files(output)
    assert {path: path.read_bytes() for path in foreign} == foreign
    assert pq.read_table(foreign_parquet).num_rows == 1
    assert vacuum(output, 1, {}) == Vacuumed(0, len(FOREIGN_NAMES) + 1)


def test_young_files_of_others_are_counted_and_young_ones_of_ours_are_not(output):
    finished(output, ROWS)
    shard(output, [row(7)])
    Path(output, "masks", "photograph.jpg").touch()
    assert vacuum(output, 1, {}) == Vacuumed(0, 1)


def test_a_shard_of_another_run_is_not_ours(output, tmp_path):
    other = str(tmp_path / "other")
    finished(other, ROWS)
    (copied, *_) = Path(other, "masks").glob("*.parquet")
    finished(output, ROWS)
    Path(output, "masks", copied.name).write_bytes(copied.read_bytes())
    age(output, 2)
    assert vacuum(output, 1, {}) == Vacuumed(0, 1)


def test_a_shard_that_was_cut_when_its_writer_was_killed_does_not_say_that_it_is_ours(output):
    finished(output, ROWS)
    cut = Path(output, "masks", shard(output, [row(7)]).file.path)
    cut.write_bytes(cut.read_bytes()[:-9])
    age(output, 2)
    assert vacuum(output, 1, {}) == Vacuumed(0, 1)


def test_what_an_earlier_version_wrote_and_replaced_is_removed(output, monkeypatch):
    monkeypatch.setattr(fenced_table.hashlib, "sha256", lambda content: SimpleNamespace(hexdigest=lambda: "of-1.0"))
    monkeypatch.setattr(fenced_table, "TABLE_ID_KEY", "nothing")
    three_hours_ago = time.time() - 3 * 3600
    monkeypatch.setattr(fenced_table, "time", SimpleNamespace(time=lambda: three_hours_ago))
    finished(output, ROWS).compact()
    shard(output, [row(7)])
    age(output, 2)
    assert vacuum(output, 1, {}) == Vacuumed(2, 1)
    assert stored(output) == as_stored(ROWS)


def prompts_of(*image_ids):
    rows = [{"image_id": id_, "role": "prompt", "prompt_id": id_, "is_relative": False} for id_ in image_ids]
    return pa.Table.from_pylist(rows, schema=PROMPTS_SCHEMA)


def extend(where, planned):
    if where == "images":
        extend_plan(planned, NEW, NOTHING_CHANGED, {})
    else:
        extend_prompts(planned.output, prompts_of(5), {"prompts": "b.json"}, 6, {})


@pytest.mark.parametrize("where", ["images", "prompts"])
def test_a_planner_that_was_stopped_before_its_commit_is_fenced_by_a_vacuum(output, monkeypatch, where):
    finished(output, ROWS)
    write_prompts(output, prompts_of(0), {"prompts": "a.json"}, 5, {})
    planned = read_plan(output, {})
    real = FencedTable.put

    def put_and_stop(*arguments, **options):
        put = real(*arguments, **options)
        age(output, 2)
        assert vacuum(output, 1, {}) == Vacuumed(1, 0)
        assert put.path not in data_files(output, where)
        return put

    monkeypatch.setattr(FencedTable, "put", put_and_stop)
    with pytest.raises(FencedError):
        extend(where, planned)
    assert read_plan(output, {}) == planned
    assert verify(output, {}).num_rows == 5
    monkeypatch.setattr(FencedTable, "put", real)
    extend("images", planned)
    extend("prompts", planned)
    assert read_planned(output, range(9), {}).num_rows == 6
    assert read_prompts_header(output, {}).num_prompts == 2


@pytest.mark.parametrize("where", ["images", "prompts"])
def test_a_vacuum_that_stood_still_while_another_planned_removes_nothing(output, monkeypatch, where):
    finished(output, ROWS)
    write_prompts(output, prompts_of(0), {}, 5, {})
    planned = read_plan(output, {})
    find = vacuum_module.find_unused_files
    commit = FencedTable.commit

    def find_what_is_not_committed_yet(table, *arguments, **options):
        if table.table_uri.rstrip("/").endswith(where):
            # As long as the vacuum lists, the planner stands between its files and its commit.
            def list_and_commit(fenced, files, **commit_options):
                if files:  # not where the planner takes its epoch
                    age(output, 2)
                    list_and_commit.found = find(table, *arguments, **options)
                commit(fenced, files, **commit_options)

            monkeypatch.setattr(FencedTable, "commit", list_and_commit)
            extend(where, planned)
            assert len(list_and_commit.found.removable) == 1
            return list_and_commit.found
        return find(table, *arguments, **options)

    monkeypatch.setattr(vacuum_module, "find_unused_files", find_what_is_not_committed_yet)
    with pytest.raises(FencedError):
        vacuum(output, 1, {})
    assert read_planned(output, range(9), {}).num_rows == (6 if where == "images" else 5)
    assert len(read_image_prompts(output, np.arange(9), {})) == (2 if where == "prompts" else 1)


def test_a_vacuum_makes_no_plan_and_no_prompts_look_finished(output):
    take_over(output)
    create_table(f"{output}/images", IMAGES_SCHEMA, {"input": "/in"}, {})
    announce_prompts(output, {})
    assert vacuum(output, 1, {}) == Vacuumed(0, 0)
    assert read_plan(output, {}) is None
    assert read_prompts_header(output, {}) is None
    images = [SourceObject("file:///in/0000.jpg", 1, "e")]
    assert write_plan(output, "/in", source_table(images), {}).num_images == 1
    assert write_prompts(output, prompts_of(0), {}, 1, {}).num_prompts == 1


def test_vacuums_change_nothing_of_what_is_planned_and_frozen(output):
    finished(output, ROWS)
    frozen = write_prompts(output, prompts_of(0), {"prompts": "a.json"}, 5, {})
    planned = read_plan(output, {})
    for _ in range(3):
        vacuum(output, 1, {})
    assert read_plan(output, {}) == planned
    assert read_prompts_header(output, {}) == frozen
    # Each commit says again what is frozen: delta-rs deletes entries of the log that are old.
    assert all("prompts" in entry for entry in DeltaTable(f"{output}/prompts").history()[:-1])
    assert verify(output, {}).num_rows == 5


def test_links_loops_pipes_and_names_that_are_no_text_are_left_alone(output):
    finished(output, ROWS)
    masks = Path(output, "masks")
    (masks / "loop").symlink_to(output)
    (masks / "nowhere.jpg").symlink_to("/nowhere")
    os.mkfifo(masks / "pipe")
    Path(os.fsdecode(bytes(masks) + b"/\xff.jpg")).touch()
    before = sorted(os.listdir(masks))
    assert vacuum(output, 1, {}) == Vacuumed(0, 4)
    assert sorted(os.listdir(masks))[: len(before)] == before
