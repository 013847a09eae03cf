"""A run that was filtered: what is in it, who reads it, who refuses it, and what a killed filter leaves."""

import json
from contextlib import suppress
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from sam_pipeline import open_run
from sam_pipeline.config.fingerprint import filters_of
from sam_pipeline.errors import ConfigError, FencedError, InputError, OutputError
from sam_pipeline.results import copying, filtering
from sam_pipeline.results.filtering import filter_run
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.maintenance.vacuum import vacuum
from sam_pipeline.storage.maintenance.verify import verify
from sam_pipeline.storage.tables.delta import DataFile, committed_files, create_table
from sam_pipeline.storage.tables.plan import read_plan, read_planned, write_plan
from sam_pipeline.storage.tables.prompts import read_prompts_header, write_prompts
from sam_pipeline.storage.tables.reading.prompt_reading import read_image_prompts
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA, PROMPTS_SCHEMA
from tests.storage.runs import FINGERPRINT, failed_row, finished, mask, plan, row, shard, take_over
from tests.storage.starts import end_record, start

SCORES = ([0.5, 0.9, 0.99], [], [0.7], [0.6, 0.98, 0.88, 0.99])


def scored(image_id, scores):
    masks = [mask(10 * image_id + i) | {"predicted_iou": float(np.float32(iou))} for i, iou in enumerate(scores)]
    return row(image_id, len(masks), masks=masks, extra='{"split": "train"}')


ROWS = [*(scored(number, scores) for number, scores in enumerate(SCORES)), failed_row(4), row(5)]
GOOD = MaskSelection(pred_iou_thresh=0.89)


@pytest.fixture
def source(tmp_path):
    output = str(tmp_path / "run")
    finished(output, ROWS)
    return output


@pytest.fixture
def new(tmp_path):
    return str(tmp_path / "new")


def filtered(source, new, selection=GOOD, options=None):
    results = Results.open(source, options or {}, selection)
    return filter_run(results, new, lambda begun: lambda num_images: None)


def rows_of(output, options=None):
    return open_run(output, options).to_arrow().sort_by("image_id").to_pylist()


def expected(selection=GOOD, source_rows=ROWS):
    """The rows as the selection shows them."""
    kept = [[m for m in each["masks"] if m["predicted_iou"] > np.float32(0.89)] for each in source_rows]
    assert selection == GOOD
    return pa.Table.from_pylist(
        [each | {"masks": masks, "num_masks": len(masks)} for each, masks in zip(source_rows, kept, strict=True)],
        schema=MASKS_SCHEMA,
    ).to_pylist()


def test_a_filtered_run_is_a_run(source, new):
    done = filtered(source, new)
    assert rows_of(new) == expected()
    found = verify(new, {})
    assert (found.ok, found.num_rows, found.num_masks) == (True, 6, 6)
    assert (done.num_images, done.num_masks, done.is_renumbered) == (6, 6, False)
    assert done.reading.dropped == {"pred_iou_thresh": 4}
    ids = np.arange(6)
    assert read_planned(new, ids, {}) == read_planned(source, ids, {})
    assert read_plan(new, {}).input == "/in"


def test_its_selection_is_part_of_its_settings(source, new):
    version = Results.open(source, {}).table.version()
    filtered(source, new)
    settings = open_run(new).settings
    assert settings["filters"] == [{"source": source, "version": version, "selection": {"pred_iou_thresh": 0.89}}]
    assert {name: settings[name] for name in FINGERPRINT if name != "schema_version"} == {
        name: value for name, value in FINGERPRINT.items() if name != "schema_version"
    }


def test_records_of_starts_stay_with_the_run_that_they_annotated(source, new):
    start(source, fingerprint=FINGERPRINT).record_end(end_record())
    filtered(source, new)
    assert [each.record is None for each in open_run(source).starts] == [True, False]
    assert open_run(new).starts == []  # nobody has annotated an image of it


def test_a_plan_is_copied_part_by_part(source, new, monkeypatch):
    sizes = []
    read = copying.read_planned

    def read_planned_part(*arguments):
        sizes.append(len(rows := read(*arguments)))
        return rows

    monkeypatch.setattr(copying, "_PART_IMAGES", 2)
    monkeypatch.setattr(copying, "read_planned", read_planned_part)
    filtered(source, new)
    num_images = read_plan(source, {}).num_images
    assert read_plan(new, {}).num_images == sum(sizes) == num_images > max(sizes)
    assert read_planned(new, np.arange(num_images), {}) == read_planned(source, np.arange(num_images), {})


def test_images_that_are_left_out_are_not_planned_and_the_others_count_from_0(source, new):
    done = filtered(source, new, MaskSelection(include=("000[135].jpg",), exclude=("*1.jpg",)))
    assert (done.num_images, done.num_left_out, done.is_renumbered) == (2, 4, True)
    assert verify(new, {}).ok
    assert [(each["image_id"], each["uri"]) for each in rows_of(new)] == [
        (0, "file:///in/0003.jpg"),
        (1, "file:///in/0005.jpg"),
    ]
    planned = read_planned(new, [0, 1], {}).to_pylist()
    assert [(each["uri"], each["etag"]) for each in planned] == [
        ("file:///in/0003.jpg", "etag-3"),
        ("file:///in/0005.jpg", "etag-5"),
    ]


def test_an_unfinished_run_is_filtered_as_far_as_it_is(tmp_path, new):
    source = str(tmp_path / "run")
    finished(source, [ROWS[0], ROWS[3]], num_images=6)
    done = filtered(source, new)
    assert (done.num_images, done.num_pending, done.is_renumbered) == (2, 4, True)
    assert verify(new, {}).ok
    assert [each["uri"][-8:] for each in rows_of(new)] == ["0000.jpg", "0003.jpg"]


def prompted(output, num_images=3):
    """A run with two prompts and a region for each image; the second prompt of an image has no mask."""
    prompts, rows = [], []
    for image_id in range(num_images):
        for prompt_id in range(2):
            prompts.append({"role": "prompt", "prompt_id": prompt_id, "category_id": image_id, "is_relative": False})
        prompts.append({"role": "region", "prompt_id": 9, "is_relative": False})
        prompts[-3:] = [{"image_id": image_id} | each for each in prompts[-3:]]
        found = mask(image_id) | {"prompt_id": 0, "category_id": image_id, "score": 0.5 + image_id / 10}
        error = {"role": "prompt", "prompt_id": 1, "error": "no area"}
        rows.append(row(image_id, 1, masks=[found], prompt_errors=[error]))
    table = pa.Table.from_pylist(prompts, schema=PROMPTS_SCHEMA)
    write_prompts(output, table, {"prompts": "/boxes.json"}, num_images, {})
    finished(output, rows)


def test_prompts_stay_with_their_images_whether_their_masks_are_kept_or_not(tmp_path, new):
    source = str(tmp_path / "run")
    prompted(source)
    assert verify(source, {}).ok
    filtered(source, new, MaskSelection(min_score=0.65, exclude=("*0.jpg",)))
    assert verify(new, {}).ok
    assert [each["num_masks"] for each in rows_of(new)] == [0, 1]
    theirs = read_image_prompts(source, [0, 1, 2], {})
    assert read_image_prompts(new, [0, 1], {}) == {0: theirs[1], 1: theirs[2]}
    header = read_prompts_header(new, {})
    assert (header.num_images, header.num_prompts, header.num_regions, header.max_prompts) == (2, 4, 2, 2)
    assert header.source == {"prompts": "/boxes.json"}


def test_a_mask_more_than_was_asked_for_is_unsound_in_a_filtered_run_too(tmp_path, new):
    source = str(tmp_path / "run")
    prompted(source, 1)
    found = mask(0) | {"prompt_id": 1}
    MaskTable.stop_runs(source, {}).delete(["ok"])
    twice = row(0, 2, masks=[found, found], prompt_errors=[{"role": "prompt", "prompt_id": 1, "error": "no area"}])
    take_over(source).commit([shard(source, [twice])])
    filtered(source, new, MaskSelection())
    assert "3 prompts are answered, 2 were planned" in verify(new, {}).problems[0]


def test_long_prompts_are_copied_in_parts_that_divide_no_image(tmp_path, new, monkeypatch):
    monkeypatch.setattr("sam_pipeline.results.copying._PART_BYTES", 1)
    monkeypatch.setattr("sam_pipeline.storage.tables.prompts._ROWS_PER_GROUP", 2)
    source = str(tmp_path / "run")
    prompted(source, 7)
    filtered(source, new, MaskSelection())
    of_files = [set(pq.read_table(uri)["image_id"].to_pylist()) for uri in DeltaTable(f"{new}/prompts").file_uris()]
    assert len(of_files) > 3
    assert sum(map(len, of_files)) == 7
    ids = np.arange(7)
    assert read_image_prompts(new, ids, {}) == read_image_prompts(source, ids, {})
    assert verify(new, {}).ok


def test_a_filtered_run_is_filtered_again_and_says_so(source, new, tmp_path):
    filtered(source, new)
    again = str(tmp_path / "again")
    filtered(new, again, MaskSelection(max_masks=1))
    assert [len(each["masks"]) for each in rows_of(again)] == [1, 0, 0, 1, 0, 1]
    assert [each["source"] for each in filters_of(open_run(again).settings)] == [source, new]
    assert verify(again, {}).ok


LOOSER = [
    (MaskSelection(pred_iou_thresh=0.95), {"pred_iou_thresh": 0.9}),
    (MaskSelection(stability_score_thresh=0.95), {"stability_score_thresh": 0.9}),
    (MaskSelection(box_nms_thresh=0.5), {"box_nms_thresh": 0.7}),
    (MaskSelection(min_score=0.5), {"min_score": 0.4}),
    (MaskSelection(min_area=5), {"min_area": 4}),
    (MaskSelection(max_area_share=0.5), {"max_area_share": 0.6}),
    (MaskSelection(max_masks=2), {"max_masks": 3}),
    (MaskSelection(min_box_iou=0.5), {"min_box_iou": 0.4}),
    (MaskSelection(category_ids=(1, 2)), {"category_ids": (2, 3)}),
    (MaskSelection(source="grid"), {"source": "prompts"}),
    (MaskSelection(drop_contained="outer"), {"drop_contained": "parts"}),
]


@pytest.mark.parametrize(("stored", "looser"), LOOSER)
def test_looser_than_a_filter_is_refused(source, new, stored, looser):
    filtered(source, new, stored)
    (name,) = looser
    with pytest.raises(ConfigError, match=f"{name} = .* is looser than the run's .*; filter {source} with"):
        Results.open(new, {}, MaskSelection(**looser))
    Results.open(new, {}, stored)
    Results.open(new, {}, MaskSelection())


def test_what_would_annotate_images_of_a_filtered_run_is_refused(source, new):
    filtered(source, new)
    before = rows_of(new)
    with pytest.raises(OutputError, match=f"{new} was filtered from {source}, so no image of it is annotated"):
        MaskTable.stop_runs(new, {})
    vacuum(new, 1, {})
    assert rows_of(new) == before


def test_a_version_that_knows_no_filters_cannot_go_on_with_one(source, new):
    filtered(source, new)
    with pytest.raises(ConfigError, match=r"filters: .* in the output, None now"):
        take_over(new, FINGERPRINT | {"schema_version": 3})


# Where a filter may be killed: the function that does not come to its end.
STEPS = ["copy_image_prompts", "copy_plan", "put_shard"]


class Killed(BaseException):
    pass


@pytest.fixture
def small_shards(monkeypatch):
    """A commit for each row group that was read; the rows above are in two."""
    monkeypatch.setattr(filtering, "_SHARD_ROWS", 1)


@pytest.mark.parametrize("step", [*STEPS, "commit", "second commit"])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_killed_filter_looks_unfinished_and_goes_on(source, new, monkeypatch, small_shards, step, is_done):
    owner = MaskTable if "commit" in step else filtering
    name = step.rpartition(" ")[2]
    function, calls = getattr(owner, name), []

    def killed(*arguments, **settings):
        calls.append(name)
        is_last = len(calls) > step.startswith("second")
        result = function(*arguments, **settings) if is_done or not is_last else None
        if is_last:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, killed)
    with pytest.raises(Killed):
        filtered(source, new)
    monkeypatch.setattr(owner, name, function)
    if step == "copy_image_prompts" or (step == "copy_plan" and not is_done):
        with pytest.raises(OutputError, match="no plan in"):
            verify(new, {})
    elif step == "second commit" and is_done:
        assert verify(new, {}).ok
    else:
        problem = verify(new, {}).problems[-1]
        assert problem.endswith(f"sam-pipeline filter {source} --into {new} --pred-iou-thresh 0.89 goes on with them")
    done = filtered(source, new)
    assert done.num_before == {"commit": 3 * is_done, "second commit": 3 + 3 * is_done}.get(step, 0)
    assert (done.num_images, done.num_masks) == (6, 6)
    assert rows_of(new) == expected()
    assert verify(new, {}).ok


def test_it_goes_on_with_what_it_began_with_though_the_run_has_changed(tmp_path, new, monkeypatch, small_shards):
    source = str(tmp_path / "run")
    table = finished(source, ROWS[:4], num_images=6)
    commit = MaskTable.commit
    monkeypatch.setattr(MaskTable, "commit", lambda *arguments: (commit(*arguments), (_ for _ in ()).throw(Killed)))
    with suppress(Killed):
        filtered(source, new)
    monkeypatch.setattr(MaskTable, "commit", commit)
    table.commit([shard(source, ROWS[4:])])
    table.compact()
    done = filtered(source, new)
    assert (done.num_before, done.num_images) == (2, 4)
    assert rows_of(new) == expected(source_rows=ROWS[:4])
    assert verify(new, {}).ok
    with pytest.raises(OutputError, match=r"is finished, from version \d of .*run; that run now has version \d"):
        filtered(source, new)


def test_two_filters_into_one_folder_do_not_mix(source, new, monkeypatch, small_shards):
    first = []
    commit = MaskTable.commit

    def overtaken(table, shards):
        if not first:
            first.append(table)
            filtered(source, new)
        commit(table, shards)

    monkeypatch.setattr(MaskTable, "commit", overtaken)
    with pytest.raises(FencedError):
        filtered(source, new)
    assert rows_of(new) == expected()


def test_the_same_command_on_what_is_finished_has_nothing_to_do(source, new):
    filtered(source, new)
    done = filtered(source, new)
    assert (done.num_before, done.num_images, done.num_masks) == (6, 6, 6)
    assert rows_of(new) == expected()


def test_a_folder_that_holds_anything_is_refused_and_nothing_is_written(source, tmp_path, new):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    finished(str(other), [row(0)])
    for place, words in ((notes, r"holds 'notes\.txt'"), (other, "holds another run"), (source, "holds another run")):
        before = sorted(path for path in tmp_path.rglob("*"))
        with pytest.raises(OutputError, match=words):
            filtered(source, str(place))
        assert sorted(path for path in tmp_path.rglob("*")) == before
    plan(new, 1)
    with pytest.raises(OutputError, match="holds a run already"):
        filtered(source, new)
    with pytest.raises(ConfigError, match="lies in a table of"):
        filtered(source, f"{source}/masks/new")


def test_another_filter_is_another_run(source, new):
    filtered(source, new)
    with pytest.raises(OutputError, match="holds another run"):
        filtered(source, new, MaskSelection(pred_iou_thresh=0.95))
    assert rows_of(new) == expected()


def test_a_hidden_file_does_not_matter(source, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_text("")
    assert filtered(source, str(tmp_path / "new")).num_images == 6


def test_nothing_is_written_where_no_image_is_left(source, tmp_path, new):
    with pytest.raises(InputError, match="include and exclude leave no image of"):
        filtered(source, new, MaskSelection(include=("*.tif",)))
    assert not (tmp_path / "new").exists()
    empty = str(tmp_path / "empty")
    plan(empty, 2)
    take_over(empty)
    with pytest.raises(OutputError, match="has no results yet"):
        filtered(empty, new)
    assert not (tmp_path / "new").exists()


def test_a_run_with_an_image_twice_is_refused(source, new):
    take_over(source).commit([shard(source, [ROWS[2]])])
    with pytest.raises(OutputError, match=r"image 2 of .*/run has more than one row"):
        filtered(source, new)


def test_masks_that_nobody_keeps_are_not_read(source, new, tmp_path):
    whole = filtered(source, new, MaskSelection()).reading.num_bytes
    nothing = filtered(source, str(tmp_path / "none"), MaskSelection(pred_iou_thresh=1.0)).reading.num_bytes
    some = filtered(source, str(tmp_path / "some"), MaskSelection(include=("0005.jpg",), pred_iou_thresh=0.5))
    assert nothing < 0.7 * whole  # with two masks an image, scores are not as little as they are elsewhere
    assert some.reading.num_bytes < whole


def delta_rs_compaction(uri):
    DeltaTable(uri).optimize.compact()


def delta_rs_deletion(uri):
    DeltaTable(uri).delete("image_id = 4")


def replaced_by(uri, name):
    """Commit a Parquet file in the place of all others."""
    table = MaskTable.stop_runs(uri.rpartition("/")[0], {})
    path = Path(uri) / name
    file = DataFile(name, path.stat().st_size, len(ROWS), 0, len(ROWS) - 1)
    table._table.commit([file], epoch=table.epoch, replaced=committed_files(table.snapshot))


def rewritten_by_polars(uri):
    pl.read_delta(uri).write_parquet(f"{uri}/polars.parquet", row_group_size=3)
    replaced_by(uri, "polars.parquet")


def rewritten_by_duckdb(uri):
    with duckdb.connect() as connection:
        connection.register("masks", DeltaTable(uri).to_pyarrow_table())
        connection.sql("select * from masks").write_parquet(f"{uri}/duckdb.parquet")
    replaced_by(uri, "duckdb.parquet")


@pytest.mark.parametrize("rewrite", [delta_rs_compaction, delta_rs_deletion, rewritten_by_polars, rewritten_by_duckdb])
def test_files_of_other_writers_are_read(source, new, rewrite):
    rewrite(f"{source}/masks")
    selection = MaskSelection(pred_iou_thresh=0.89, min_area=2, drop_contained="outer", max_masks=9, min_box_iou=0.1)
    kept = MaskSelection(pred_iou_thresh=0.89)
    by_id = {each["image_id"]: each for each in expected()}
    results = Results.open(source, {}, kept)
    found = [each for rows in results.tables(results.schema.names) for each in rows.to_pylist()]
    assert sorted(found, key=lambda each: each["image_id"]) == [
        by_id[image_id] for image_id in sorted(by_id) if image_id != 4 or rewrite is not delta_rs_deletion
    ]
    filtered(source, new, selection)
    assert verify(new, {}).ok


def test_a_table_without_the_columns_of_later_versions_is_read_and_becomes_one_of_now(tmp_path, new):
    source = str(tmp_path / "run")
    plan(source, len(ROWS))
    kind = MASKS_SCHEMA.field("masks").type.value_type
    old_kind = pa.list_(pa.struct([each for each in kind if each.name not in ("prompt_id", "prompt_box", "score")]))
    names = [name for name in MASKS_SCHEMA.names if name != "prompt_errors"]
    schema = pa.schema(
        [
            MASKS_SCHEMA.field(name).with_type(old_kind) if name == "masks" else MASKS_SCHEMA.field(name)
            for name in names
        ]
    )
    create_table(f"{source}/masks", schema, {"fingerprint": json.dumps(FINGERPRINT)}, {})
    write_deltalake(f"{source}/masks", pa.Table.from_pylist(ROWS, schema=schema), mode="append")
    for selection in (MaskSelection(source="prompts"), MaskSelection(min_score=0.1), MaskSelection(category_ids=(1,))):
        tables = Results.open(source, {}, selection).tables(["num_masks"])
        assert sum(pc.sum(rows["num_masks"]).as_py() for rows in tables) == 0
    filtered(source, new, MaskSelection(pred_iou_thresh=0.89, source="grid", min_box_iou=0.5))
    assert rows_of(new) == expected()
    assert open_run(new).settings["schema_version"] == 3


@pytest.mark.s3
def test_a_run_is_filtered_from_s3_and_onto_it(s3, tmp_path, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    images = [SourceObject(f"s3://{bucket}/in/{index}.jpg", 100, "etag") for index in range(2)]
    source = f"s3://{bucket}/run"
    write_plan(source, f"s3://{bucket}/in", source_table(images), {})
    table = MaskTable.take_over(source, FINGERPRINT, {"config": "{}"}, {})
    rows = [row(index, uri=images[index].uri) for index in range(2)]
    table.commit([shard(source, rows)])
    for new in (f"s3://{bucket}/new", str(tmp_path / "new")):
        filtered(source, new, MaskSelection(max_masks=1))
        assert [each["num_masks"] for each in rows_of(new)] == [1, 1]
        assert verify(new, {}).ok
    fsspec.filesystem("s3").pipe(f"{bucket}/other/notes.txt", b"mine")
    with pytest.raises(OutputError, match=r"holds 'notes\.txt'"):
        filtered(source, f"s3://{bucket}/other")
