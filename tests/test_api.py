"""The package as a Python program uses it: runs made by hand are read, and one is really annotated."""

import dataclasses
import importlib.util
import json
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import sam_pipeline
from sam_pipeline import AnnotateConfig, ImageRow, SamPipelineError, annotate, decode_mask, open_run
from sam_pipeline.errors import ConfigError, FencedError, NothingSucceededError, OutputError
from sam_pipeline.masks.runs import rle
from sam_pipeline.pipeline import annotate as annotate_module
from sam_pipeline.pipeline import progress
from sam_pipeline.pipeline.estimating import estimate as estimate_module
from sam_pipeline.pipeline.monitor import Counts
from sam_pipeline.storage.maintenance.status import Outcome
from sam_pipeline.storage.tables.delta import create_table
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA
from tests.end_to_end.pictures import HEIGHT, WIDTH, save_photos
from tests.storage.runs import FINGERPRINT, FLOAT_FIELDS, failed_row, finished, mask, plan, row, shard, take_over

ROWS = [row(0), row(1, 0), failed_row(2), row(3, 3), row(4, 1)]


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def run(output):
    finished(output, ROWS, num_images=7)
    return open_run(output)


def as_stored(rows):
    return [row | {"masks": [mask | FLOAT_FIELDS for mask in row["masks"]]} for row in rows]


def by_id(rows):
    return sorted(rows, key=lambda row: row["image_id"])


def ids(rows):
    return sorted(row["image_id"] for row in rows)


def data_files(output):
    return list(Path(output, "masks").glob("*.parquet"))


def test_every_public_name_is_there_and_no_other():
    official = {"build_sam": "build_sam_vit_h"}
    for name in set(sam_pipeline.__all__) - {"sam_model_registry"}:
        assert getattr(sam_pipeline, name).__name__ == official.get(name, name)
    assert list(sam_pipeline.sam_model_registry) == ["default", "vit_h", "vit_l", "vit_b", "vit_t"]
    assert set(sam_pipeline.__all__) <= set(dir(sam_pipeline))
    with pytest.raises(AttributeError, match="module 'sam_pipeline' has no attribute 'open_rum'"):
        _ = sam_pipeline.open_rum


def test_an_estimate_takes_settings_by_name(monkeypatch):
    configs = []
    monkeypatch.setattr(estimate_module, "estimate", lambda config: configs.append(config) or "estimated")
    assert sam_pipeline.estimate(input=Path("in"), output="run", points_per_side=8, price_node_hour=2) == "estimated"
    (config,) = configs
    assert (config.images.input, config.masks.points_per_side, config.prices.price_node_hour) == ("in", 8, 2)
    with pytest.raises(ConfigError, match=r"price_node_hours \(did you mean price_node_hour\?\)"):
        sam_pipeline.estimate(output="run", price_node_hours=2)


def test_a_run_says_what_it_holds(run, output):
    assert (run.output, run.num_images, run.num_done, run.num_masks) == (output, 7, 5, 6)
    assert run.num_by_status == {"ok": 4, "decode_error": 1}
    assert run.settings == FINGERPRINT
    assert repr(run) == f"<Run {output!r}, version {run.version}: 5 of 7 images>"


def test_a_run_cannot_be_changed(run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.num_images = 3
    run.num_by_status.clear()
    run.settings.clear()
    assert (run.num_by_status, run.settings) == ({"ok": 4, "decode_error": 1}, FINGERPRINT)


def test_a_folder_that_is_named_relatively_is_found_after_a_change_of_folder(output, tmp_path, monkeypatch):
    finished(output, ROWS)
    monkeypatch.chdir(tmp_path)
    run = open_run(Path("run"))
    monkeypatch.chdir("/")
    assert (run.output, len(list(run.rows()))) == (output, 5)


def test_rows_are_those_that_were_stored(run):
    rows = run.rows()
    assert isinstance(rows, Iterator)
    assert by_id(rows) == as_stored(ROWS)


NOT_OK = [2]
CHOICES = [
    ({"status": "ok"}, [0, 1, 3, 4]),
    ({"status": "decode_error"}, NOT_OK),
    ({"status": "too_large"}, []),
    ({"where": pc.field("num_masks") > 1}, [0, 3]),
    ({"where": pc.field("image_id") >= 3}, [3, 4]),
    ({"where": pc.field("height").is_null()}, NOT_OK),
    ({"where": pc.field("error").is_valid()}, NOT_OK),
    ({"where": pc.field("extra").is_valid()}, []),
    ({"where": pc.field("num_masks") == 0}, [1, 2]),
    ({"where": pc.field("num_masks") == 0, "status": "ok"}, [1]),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_rows_are_chosen_by_status_and_condition_in_every_method(run, choice, expected):
    assert ids(run.rows(**choice)) == expected
    assert sorted(run.to_arrow(**choice)["image_id"].to_pylist()) == expected
    assert sorted(run.to_pandas(**choice)["image_id"].tolist()) == expected


def test_columns_are_those_asked_for_in_their_order(run):
    columns = ("num_masks", "image_id")
    assert next(run.rows(columns=columns)).keys() == set(columns)
    assert by_id(run.rows(columns=columns))[3] == {"num_masks": 3, "image_id": 3}
    assert run.to_arrow(columns=columns).column_names == list(columns)
    assert list(run.to_pandas(columns=columns).columns) == list(columns)
    # What is filtered by need not be among them.
    assert list(run.rows(columns=["uri"], status="decode_error")) == [{"uri": "file:///in/0002.jpg"}]


def test_a_table_has_the_schema_of_the_results(run):
    table = run.to_arrow()
    assert table.schema.equals(MASKS_SCHEMA)
    assert by_id(table.to_pylist()) == as_stored(ROWS)


def test_a_data_frame_has_a_row_an_image(run):
    frame = run.to_pandas().set_index("image_id").sort_index()
    assert frame["status"].tolist() == ["ok", "ok", "decode_error", "ok", "ok"]
    assert np.isnan(frame["height"][2])
    first = frame["masks"][0][0]
    assert decode_mask(first).sum() == first["area"]


def test_without_pandas_the_remedy_is_named(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"to_pandas needs pandas.*: pip install pandas"):
        run.to_pandas()


def test_the_dataset_serves_other_programs(run):
    dataset = run.dataset()
    assert dataset.count_rows(filter=pc.field("status") == "ok", use_threads=False) == 4
    with duckdb.connect() as connection:
        connection.register("results", dataset)
        counts = connection.sql("select count(*), sum(num_masks) from results where status = 'ok'").fetchall()
    assert counts == [(4, 6)]


def test_a_stored_mask_decodes_to_its_pixels(run):
    (stored,) = by_id(run.rows())[4]["masks"]
    pixels = decode_mask(stored)
    assert (pixels.shape, pixels.dtype) == ((12, 16), np.bool_)
    x, y, w, h = mask(40)["bbox"]
    expected = np.zeros((12, 16), bool)
    expected[y : y + h + 1, x : x + w + 1] = True
    assert np.array_equal(pixels, expected)


def test_a_run_does_not_see_what_is_committed_after_it_was_opened(output):
    table = finished(output, ROWS[:3], num_images=5)
    run = open_run(output)
    table.commit([shard(output, ROWS[3:])])
    assert (run.num_done, run.num_masks, run.num_by_status) == (3, 2, {"ok": 2, "decode_error": 1})
    assert ids(run.rows()) == [0, 1, 2]
    assert len(run.to_arrow()) == len(run.to_pandas()) == run.dataset().count_rows(use_threads=False) == 3
    later = open_run(output)
    assert later.version > run.version
    assert (later.num_done, ids(later.rows())) == (5, [0, 1, 2, 3, 4])


def test_compaction_leaves_an_open_run_whole(output):
    table = finished(output, ROWS)
    run = open_run(output)
    table.compact()
    assert by_id(run.rows()) == by_id(open_run(output).rows()) == as_stored(ROWS)


def test_reading_writes_nothing_and_fences_nobody(output):
    table = finished(output, ROWS[:4], num_images=5)
    before = {path: path.stat().st_mtime_ns for path in Path(output).rglob("*")}
    run = open_run(output)
    assert len(list(run.rows())) == 4
    assert {path: path.stat().st_mtime_ns for path in Path(output).rglob("*")} == before
    table.commit([shard(output, ROWS[4:])])


def test_a_run_that_has_begun_holds_no_rows_yet(output):
    plan(output, 3)
    take_over(output)
    run = open_run(output)
    assert (run.num_images, run.num_done, run.num_masks, run.num_by_status) == (3, 0, 0, {})
    assert list(run.rows()) == []
    assert run.to_arrow().schema.equals(MASKS_SCHEMA)


def test_rows_are_streamed_and_not_read_ahead(output):
    plan(output, 20)
    table = take_over(output)
    table.commit([shard(output, [row(index)]) for index in range(20)])
    rows = open_run(output).rows()
    first = next(rows)
    for path in data_files(output):
        path.unlink()
    with pytest.raises(OutputError, match=r"cannot read|cannot use output") as caught:
        next(rows)
    assert first["image_id"] == 0
    assert "\n" not in str(caught.value)


def test_streaming_holds_few_rows_at_a_time(output):
    finished(output, [row(index) for index in range(2000)])
    run = open_run(output)
    peaks_bytes = []
    for consume in (lambda: sum(1 for _ in run.rows()), lambda: len(list(run.rows()))):
        tracemalloc.start()
        assert consume() == 2000
        peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks_bytes[0] < peaks_bytes[1] / 8


def test_a_file_that_is_gone_is_an_output_error_in_every_method(run, output):
    for path in data_files(output):
        path.unlink()
    for read in (lambda: list(run.rows()), run.to_arrow, run.to_pandas, lambda: run.num_masks):
        with pytest.raises(OutputError, match=r"cannot read|cannot use output"):
            read()
    assert run.num_done == 5  # of the log alone


def test_no_plan_no_results_and_a_stranger_are_errors_of_one_line(output, tmp_path):
    with pytest.raises(OutputError, match=r"^no plan in .*/run$"):
        open_run(output)
    plan(output, 3)
    with pytest.raises(OutputError, match=r"^no results in .*/run$"):
        open_run(output)
    create_table(f"{output}/masks", MASKS_SCHEMA, {}, {})
    with pytest.raises(OutputError, match="a Delta table of another program"):
        open_run(output)
    assert issubclass(OutputError, SamPipelineError)


def test_credentials_in_options_and_uris_are_refused():
    with pytest.raises(ConfigError, match="'secret' is not known, or holds a credential"):
        open_run("s3://bucket/run", {"secret": "abc"})
    with pytest.raises(ConfigError, match="credential"):
        open_run("s3://user:abc@bucket/run")


@pytest.mark.parametrize("read", ["rows", "to_arrow", "to_pandas"])
def test_a_choice_that_cannot_be_is_refused_at_the_call(run, read):
    refused = {
        "status must be one of ok, fetch_error, .*; got 'done'": {"status": "done"},
        "no such column: mask, size; there are image_id, uri, ": {"columns": ["mask", "uri", "size"]},
        r"columns must be a list of strings, such as \['uri'\], got 'uri'": {"columns": "uri"},
        r"where must be a condition such as .*, got 'num_masks > 1'": {"where": "num_masks > 1"},
        r"where does not fit the columns: .*nope": {"where": pc.field("nope") == 1},
        r"where does not fit the columns: .*string": {"where": pc.field("status") == 1},
    }
    for message, choice in refused.items():
        with pytest.raises(ConfigError, match=message) as caught:
            getattr(run, read)(**choice)
        assert "\n" not in str(caught.value)


def check_type(annotation, arrow_type, place):
    """Compare a type hint with an Arrow type, all the way down; None beside a type is left to the caller."""
    if get_origin(annotation) is UnionType:
        (annotation,) = set(get_args(annotation)) - {NoneType}
    if pa.types.is_list(arrow_type):
        assert get_origin(annotation) is list, place
        check_type(get_args(annotation)[0], arrow_type.value_type, place)
    elif pa.types.is_struct(arrow_type):
        check_fields(annotation, list(arrow_type), place)
    else:
        kind = type(get_args(annotation)[0]) if get_origin(annotation) is Literal else annotation
        named = {int: pa.types.is_integer, float: pa.types.is_floating, str: pa.types.is_string}
        assert named[kind](arrow_type), place


def check_fields(typed_dict, fields, place="row"):
    hints = get_type_hints(typed_dict)
    assert list(hints) == [field.name for field in fields], place
    for field in fields:
        check_type(hints[field.name], field.type, f"{place}.{field.name}")


def test_the_typed_rows_are_those_of_the_schema():
    check_fields(ImageRow, list(MASKS_SCHEMA))
    hints = get_type_hints(ImageRow)
    assert {name for name, hint in hints.items() if NoneType in get_args(hint)} == {
        field.name for field in MASKS_SCHEMA if field.nullable
    }


@pytest.fixture
def pretended(monkeypatch, output):
    """In place of a run: a table made by hand, a word of progress, and one of another's on standard output."""

    def run_annotate(config, make_display):
        finished(config.output, ROWS)
        with make_display(5, 2) as display:
            display.update(Counts(Counter(ok=3), num_masks=6), 5)
            sys.stdout.write("a word of the user's own\n")
        return annotate_module.Summary(Outcome(config.output, {"ok": 4, "decode_error": 1}, 6), 5, 1.0)

    monkeypatch.setattr(annotate_module, "annotate", run_annotate)
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL_S", 0)
    return AnnotateConfig(output=output)


def test_annotate_shows_progress_and_returns_the_run(pretended, capsys):
    run = annotate(pretended)
    assert (run.output, run.num_done) == (pretended.output, 5)
    out, err = capsys.readouterr()
    assert out == "a word of the user's own\n"
    assert "5/5 images" in err


@pytest.mark.parametrize("is_terminal", [False, True])
def test_annotate_is_silent_when_asked_and_leaves_standard_output_alone(pretended, capsys, monkeypatch, is_terminal):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal
    assert annotate(pretended, show_progress=False).num_done == 5
    assert capsys.readouterr() == ("a word of the user's own\n", "")


def test_errors_of_a_run_are_raised_as_they_are(monkeypatch, output):
    def run_annotate(config, make_display):
        raise FencedError("overtaken")

    monkeypatch.setattr(annotate_module, "annotate", run_annotate)
    with pytest.raises(FencedError, match="overtaken"):
        annotate(AnnotateConfig(output=output))


def test_a_run_in_which_nothing_succeeded_is_an_error(monkeypatch, output):
    outcome = Outcome(output, {"decode_error": 2}, 0, failure="file:///a.png: it is empty")
    monkeypatch.setattr(annotate_module, "annotate", lambda *_: annotate_module.Summary(outcome, 2, 1.0))
    with pytest.raises(NothingSucceededError, match="none of the 2 images could be annotated: 2 decode_error"):
        annotate(AnnotateConfig(output=output))


def test_settings_are_given_by_name_or_in_a_configuration(monkeypatch, output):
    called = []

    def run_annotate(config, make_display):
        called.append(config)
        finished(config.output, ROWS)
        return annotate_module.Summary(Outcome(config.output, {"ok": 1}, 0), 1, 1.0)

    monkeypatch.setattr(annotate_module, "annotate", run_annotate)
    run = annotate(input=Path("photos"), output=Path(output), model_type="vit_t", points_per_side=16, keep=["a"])
    assert run.output == output
    assert called[0].given() == {
        "input": "photos", "output": output, "model_type": "vit_t", "points_per_side": 16, "keep": ("a",),
    }  # fmt: skip
    assert called[0].masks.points_per_side == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: annotate(output="o", points_per_sid=3), r"points_per_sid \(did you mean points_per_side\?\)"),
        (lambda: annotate(input="in"), "output must be given"),
        (lambda: annotate("photos"), "config must be an AnnotateConfig, got 'photos'; give settings by name"),
        (lambda: annotate(AnnotateConfig(output="o"), limit=3), "in config or by name, not both: limit"),
        (lambda: annotate(output="o", device="mps"), "device must be one of auto, cpu, cuda, got 'mps'"),
        (lambda: open_run("o", '{"anon": true}'), "storage_options must be a mapping"),
        (lambda: open_run("o", ""), "storage_options must be a mapping"),
        (lambda: open_run(4), "output must be a string, got 4"),
    ],
)
def test_a_call_that_cannot_be_is_refused_before_anything_starts(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


SCRIPT = """
import json, sys
from sam_pipeline import AnnotateConfig, InputConfig, MaskConfig, ModelConfig, annotate, decode_mask

config = AnnotateConfig(
    images=InputConfig(input=sys.argv[1]),
    output=sys.argv[2],
    num_cpus=2,
    model=ModelConfig(model_type="vit_t"),
    masks=MaskConfig(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0),
)
first = annotate(config)
again = annotate(config, show_progress=False)
areas = [int(decode_mask(mask).sum()) for row in again.rows() for mask in row["masks"]]
print(json.dumps([first.num_by_status, first.num_masks, first.num_images, first.settings, areas]))
"""


@pytest.mark.weights
def test_two_photographs_are_annotated_from_python(start, tmp_path):
    photos, output = save_photos(tmp_path / "photos", 2), tmp_path / "out"
    finished = start("-c", SCRIPT, photos, output, script="python").wait()
    assert finished.exit_code == 0, finished.stderr
    assert [line for line in finished.stderr.splitlines() if "/2 images, " not in line] == [], "a line of Ray's"
    num_by_status, num_masks, num_images, settings, areas = json.loads(finished.stdout)
    assert (num_by_status, num_images) == ({"ok": 2}, 2)
    assert num_masks == len(areas) > 2
    assert (settings["points_per_side"], settings["model_type"], settings["precision"]) == (2, "vit_t", "fp32")
    rows = by_id(open_run(str(output)).rows())
    assert [os.path.basename(row["uri"]) for row in rows] == ["00.png", "01.png"]
    stored = [mask for row in rows for mask in row["masks"]]
    assert sorted(mask["area"] for mask in stored) == sorted(areas)
    assert {rle.decode(mask["segmentation"]).shape for mask in stored} == {(HEIGHT, WIDTH)}
