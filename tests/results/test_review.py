"""What a person has dropped is left out, whatever else of the run is chosen."""

import json

import pyarrow as pa
import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.results.review import mask_key, read_review
from tests.storage.runs import failed_row, mask, results_table, row

ROWS = [row(0, 3), row(1, 2), row(2, 4), row(3, 0), failed_row(4)]


def entry(image_id, *, keep=True, dropped=(), **changes):
    keys = [mask_key(ROWS[image_id]["masks"][number]) for number in dropped]
    return {"image_id": image_id, "uri": ROWS[image_id]["uri"], "keep": keep, "dropped_masks": keys} | changes


def written(tmp_path, *images, **changes):
    place = tmp_path / "review.json"
    place.write_text(
        json.dumps({"format": "sam-pipeline review", "version": 1, "output": "/run", "images": images} | changes)
    )
    return str(place)


def test_dropped_images_and_masks_are_left_out(tmp_path):
    place = written(tmp_path, entry(0, dropped=[1]), entry(1, keep=False), entry(2), entry(3))
    left = read_review(place, {}).apply(results_table(ROWS)).rows.to_pylist()
    assert [(found["image_id"], found["num_masks"]) for found in left] == [(0, 2), (2, 4), (3, 0), (4, 0)]
    assert left[0]["masks"] == results_table(ROWS[:1]).to_pylist()[0]["masks"][::2]


def test_the_order_and_the_number_of_masks_do_not_matter(tmp_path):
    place = written(tmp_path, entry(2, dropped=[0, 3]))
    masks = ROWS[2]["masks"]
    turned = results_table([ROWS[2] | {"masks": [masks[3], masks[2]], "num_masks": 2}])
    (left,) = read_review(place, {}).apply(turned).rows.to_pylist()
    assert left["masks"] == results_table([ROWS[2] | {"masks": [masks[2]]}]).to_pylist()[0]["masks"]


def test_rows_without_masks_lose_images_alone(tmp_path):
    place = written(tmp_path, entry(0, dropped=[1]), entry(1, keep=False))
    rows = results_table(ROWS).select(["image_id", "uri", "status"])
    assert read_review(place, {}).apply(rows).rows["image_id"].to_pylist() == [0, 2, 3, 4]


def test_what_was_not_looked_at_is_kept_as_it_is(tmp_path):
    review = read_review(written(tmp_path, entry(0, keep=False)), {})
    rows = results_table(ROWS[1:])
    assert review.apply(rows).rows.equals(rows)
    both = pa.concat_tables([results_table(ROWS[:2]), results_table(ROWS[2:])])
    assert review.apply(both).rows.equals(rows)


def test_a_key_tells_prompts_apart_but_not_scores():
    first = mask(1)
    assert mask_key(first) == mask_key(first | {"predicted_iou": 0.1})
    assert len({mask_key(first), mask_key(first | {"prompt_id": 7}), mask_key(mask(2))}) == 3


def test_a_review_fits_a_run_with_other_ids(tmp_path):
    review = read_review(written(tmp_path, entry(0, dropped=[1]), entry(1, keep=False), entry(2)), {})
    renumbered = results_table([ROWS[2] | {"image_id": 0}, ROWS[1] | {"image_id": 5}, ROWS[0] | {"image_id": 6}])
    found = review.apply(renumbered)
    assert [(each["image_id"], each["num_masks"]) for each in found.rows.to_pylist()] == [(0, 4), (6, 2)]
    assert (found.num_images, found.num_masks) == (review.num_images, review.num_masks) == (1, 1)


def test_what_is_not_met_is_not_counted(tmp_path):
    images = [entry(0, uri="s3://other/a.jpg", dropped=[0, 1]), entry(1, keep=False, uri="s3://other/b.jpg")]
    review = read_review(written(tmp_path, *images, entry(2, dropped=[0, 2])), {})
    rows = results_table([*ROWS[:2], ROWS[2] | {"masks": ROWS[2]["masks"][1:], "num_masks": 3}])
    found = review.apply(rows)
    assert [each["num_masks"] for each in found.rows.to_pylist()] == [3, 2, 2]
    assert (found.num_images, found.num_masks) == (0, 1)
    assert (review.num_images, review.num_masks) == (1, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "coco"},
        {"version": 2},
        {"images": None},
        {"images": [3]},
        {"images": [entry(0) | {"image_id": "0"}]},
        {"images": [entry(0) | {"image_id": True}]},
        {"images": [entry(0) | {"image_id": 2**63}]},
        {"images": [entry(0) | {"uri": "\ud800"}]},
        {"images": [entry(0) | {"keep": "yes"}]},
        {"images": [entry(0) | {"dropped_masks": [3]}]},
        {"images": [{"image_id": 0}]},
    ],
    ids=str,
)
def test_what_is_no_review_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match=r"review"):
        read_review(written(tmp_path, **changes), {})


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\x00", b'{"format"'])
def test_a_file_that_is_no_review_is_refused(tmp_path, content):
    (tmp_path / "review.json").write_bytes(content)
    with pytest.raises(InputError, match="review"):
        read_review(str(tmp_path / "review.json"), {})
