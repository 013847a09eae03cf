"""Results as a selection shows them, against the choice made of whole rows in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings

from sam_pipeline.errors import ConfigError
from sam_pipeline.results.results import Results
from sam_pipeline.results.row_groups import Reading
from sam_pipeline.results.selection.choosing import choose_images, choose_masks, keep_masks
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.reading import result_reading
from tests.results.selection.test_choosing import SELECTIONS
from tests.storage.runs import FINGERPRINT, failed_row, finished, mask, plan, results_table, row, take_over

IOU = ([0.5, 0.9, 0.99], [], [0.7], [0.6, 0.98, 0.88, 0.99])
SCORED = [
    [mask(seed) | {"predicted_iou": iou, "stability_score": 0.95 + seed / 1000} for seed, iou in enumerate(scores)]
    for scores in IOU
]
ROWS = [*(row(number, len(masks), masks=masks) for number, masks in enumerate(SCORED)), failed_row(4), row(5)]
WIDE = FINGERPRINT | {"mode": "grid", "pred_iou_thresh": 0.4, "stability_score_thresh": 0.4, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    output = str(tmp_path_factory.mktemp("run"))
    finished(output, ROWS)
    return output


def in_memory(selection, where=None):
    """What reading is to give, from whole rows."""
    rows = results_table(ROWS)
    rows = rows.filter(pa.array(choose_images(rows["uri"], selection)))
    masks = keep_masks(rows["masks"], choose_masks(rows, selection))
    counts = pa.array([len(each) for each in masks.to_pylist()], pa.int32())
    rows = rows.set_column(6, rows.schema.field("num_masks"), counts).set_column(7, rows.schema.field("masks"), masks)
    return rows if where is None else rows.filter(where)


def read(output, selection, columns, where=None, **ids):
    results = Results.open(output, {}, selection)
    return pa.concat_tables([results.schema.empty_table().select(columns), *results.tables(columns, where, **ids)])


COLUMNS = [
    ["image_id", "num_masks", "masks"],
    ["masks"],
    ["image_id", "num_masks"],
    ["uri"],
    list(results_table([]).schema.names),
]
CONDITIONS = [None, pc.field("num_masks") > 1, pc.field("status") == "ok", pc.list_value_length(pc.field("masks")) > 1]


@pytest.mark.parametrize("where", CONDITIONS, ids=str)
@given(SELECTIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_is_choosing(output, where, selection):
    for columns in COLUMNS:
        assert read(output, selection, columns, where) == in_memory(selection, where).select(columns)


@pytest.mark.parametrize("where", CONDITIONS, ids=str)
@given(SELECTIONS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_large_row_groups_is_choosing_too(output, monkeypatch, where, selection):
    with monkeypatch.context() as patch:
        patch.setattr(result_reading, "_PIECE_BYTES", 1)
        for columns in COLUMNS:
            assert read(output, selection, columns, where) == in_memory(selection, where).select(columns)
        results = Results.open(output, {}, selection)
        assert all(rows.num_rows == 1 for rows in results.tables(["image_id", "masks"], where))


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        ({"include": ["000[13].jpg"]}, [1, 3]),
        ({"exclude": ["000[13].jpg"]}, [0, 2, 4, 5]),
        ({"include": ["in/*"], "exclude": ["*4.jpg"]}, [0, 1, 2, 3, 5]),
    ],
)
def test_images_are_chosen_by_their_uris(output, patterns, ids):
    assert read(output, MaskSelection(**patterns), ["image_id"])["image_id"].to_pylist() == ids


def test_some_ids_are_read_of_their_row_groups_alone(output):
    whole, part = Reading(), Reading()
    results = Results.open(output, {})
    list(results.tables(["masks"], reading=whole))
    rows = pa.concat_tables(results.tables(["image_id", "masks"], first_id=4, last_id=5, reading=part))
    assert rows["image_id"].to_pylist() == [4, 5]
    assert part.num_bytes < whole.num_bytes


def test_masks_are_not_read_where_none_is_wanted(output):
    whole, scores = Reading(), Reading()
    list(Results.open(output, {}).tables(["masks"], reading=whole))
    nothing = Results.open(output, {}, MaskSelection(pred_iou_thresh=1.0))
    rows = pa.concat_tables(nothing.tables(["num_masks", "masks"], reading=scores))
    assert rows["masks"].to_pylist() == [[]] * len(ROWS)
    assert scores.num_bytes < whole.num_bytes / 2


@pytest.mark.parametrize(
    ("looser", "stored"), [("pred_iou_thresh", 0.3), ("stability_score_thresh", 0.3), ("box_nms_thresh", 0.8)]
)
def test_looser_than_the_run_is_refused(tmp_path, looser, stored):
    fingerprint = WIDE | {"box_nms_thresh": 0.7}
    plan(str(tmp_path), 1)
    take_over(str(tmp_path), fingerprint)
    with pytest.raises(ConfigError, match=f"{looser} = {stored:g} is looser than the run's"):
        Results.open(str(tmp_path), {}, MaskSelection(**{looser: stored}))
    assert Results.open(str(tmp_path), {}, MaskSelection(**{looser: fingerprint[looser]})).num_done == 0


FIELDS = [["area"], ["area", "bbox", "segmentation"], ["predicted_iou", "prompt_box"]]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
@given(SELECTIONS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_some_fields_are_those_of_the_whole_masks(output, fields, selection):
    columns, where = ["image_id", "num_masks", "masks"], pc.field("num_masks") > 0
    results = Results.open(output, {}, selection)
    whole, part = Reading(), Reading()
    found = [row for rows in results.tables(columns, where, reading=whole) for row in rows.to_pylist()]
    expected = [
        row | {"masks": [{name: mask[name] for name in mask if name in fields} for mask in row["masks"]]}
        for row in found
    ]
    tables = list(results.tables(columns, where, mask_fields=fields, reading=part))
    assert [row for rows in tables for row in rows.to_pylist()] == expected
    assert part.num_bytes < whole.num_bytes or not found or "segmentation" in fields


def test_a_condition_on_a_field_that_is_not_read_is_refused(output):
    scores = pc.list_value_length(pc.field("masks"))
    assert list(Results.open(output, {}).tables(["masks"], scores > 0, mask_fields=["area"]))
    with pytest.raises(ConfigError, match="where does not fit"):
        Results.open(output, {}).tables(
            ["masks"], pc.struct_field(pc.list_element(pc.field("masks"), 0), "score") > 0, mask_fields=["area"]
        )


def test_images_that_are_left_out_are_not_read(output):
    results = Results.open(output, {}, MaskSelection(max_masks=2))
    some = np.array([True, True, True, True, False, True])
    whole, part = Reading(), Reading()
    list(results.tables(["masks"], reading=whole))
    (rows,) = results.tables(["image_id", "masks"], left_out=some, reading=part)
    assert rows["image_id"].to_pylist() == [4]
    assert part.num_bytes < whole.num_bytes / 2


def test_masks_are_counted_under_the_first_setting_that_drops_them(output):
    selection = MaskSelection(pred_iou_thresh=0.65, max_masks=1, exclude=["0005.jpg"])
    reading = Reading()
    list(Results.open(output, {}, selection).tables(["num_masks"], reading=reading))
    num_low = sum(iou <= 0.65 for some in IOU for iou in some)
    num_beyond = sum(max(0, sum(iou > 0.65 for iou in some) - 1) for some in IOU)
    assert reading.dropped == {"pred_iou_thresh": num_low, "max_masks": num_beyond}
