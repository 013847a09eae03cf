"""A dataset that grows and changes after its run: `--extend` and `--redo-changed`, on S3 by the real command."""

import pytest

from tests.faults.conftest import NUM_IMAGES
from tests.faults.fake_engine import expected_masks, image_file, without_scores

pytestmark = [pytest.mark.s3, pytest.mark.slow]

CHANGED, GONE = 3, 5
"""Images that are another one, and none, when the input is looked at again."""

NEW = {40: ("000001-new.png", 77), 41: ("zebra.png", 79)}
"""id → name and number. One sorts in between and gets the next id all the same."""

NOW_IN_CHANGED = 103
"""The number of the image that takes the place of the changed one: it has one mask, and the one before had none."""


@pytest.mark.soak  # tests/pipeline/test_inputs.py has the parts
def test_what_is_new_is_added_and_what_changed_is_redone_when_asked(own_images, cluster):
    run, bucket = own_images
    first = run.annotate(address=cluster).wait()
    assert first.exit_code == 0, first.stderr
    before = run.rows()
    assert sorted(run.decoded_numbers()) == list(range(NUM_IMAGES))

    for name, number in NEW.values():
        run.s3.put(bucket, f"images/{name}", image_file(number))
    run.s3.put(bucket, f"images/{CHANGED:06}.png", image_file(NOW_IN_CHANGED))
    run.s3.delete(bucket, f"images/{GONE:06}.png")
    assert_planned_only(run, before)

    extended = run.annotate("--extend", address=cluster).wait()
    assert extended.exit_code == 0, extended.stderr
    assert "2 new images, 1 changed, 1 gone" in extended.stderr
    assert "what has changed keeps its masks; --redo-changed annotates it again" in extended.stderr
    assert "annotated now  2\n" in extended.stdout
    rows = run.rows()
    assert rows[:NUM_IMAGES] == before
    assert {row["image_id"]: row["uri"].rsplit("/", 1)[1] for row in rows[NUM_IMAGES:]} == {
        image_id: name for image_id, (name, _) in NEW.items()
    }
    assert [masks(row) for row in rows[NUM_IMAGES:]] == [expected(number) for _, number in NEW.values()]
    assert sorted(run.decoded_numbers())[NUM_IMAGES:] == [77, 79]

    redone = run.annotate("--extend", "--redo-changed", address=cluster).wait()
    assert redone.exit_code == 0, redone.stderr
    assert "0 new images, 1 changed, 1 gone" in redone.stderr
    assert "annotated now  1\n" in redone.stdout
    again = run.rows()
    assert masks(again[CHANGED]) == expected(NOW_IN_CHANGED) != masks(before[CHANGED])
    assert without(again, CHANGED) == without(rows, CHANGED)
    assert sorted(run.decoded_numbers())[NUM_IMAGES:] == [77, 79, NOW_IN_CHANGED]

    settled = run.annotate("--extend", "--redo-changed", address=cluster).wait()
    assert settled.exit_code == 0, settled.stderr
    assert "0 new images, 0 changed, 1 gone" in settled.stderr
    assert "annotated now  0\n" in settled.stdout
    assert run.rows() == again
    verified = run.start("verify", run.output, env=run.env).wait()
    assert verified.exit_code == 0, verified.stdout + verified.stderr


def assert_planned_only(run, before):
    """A plan is frozen: without --extend the command looks at nothing, and what has changed goes unnoticed."""
    again = run.annotate().wait()
    assert again.exit_code == 0, again.stderr
    assert "new images" not in again.stderr
    assert "annotated now  0\n" in again.stdout
    assert run.rows() == before


def masks(row):
    return [without_scores(mask) for mask in row["masks"]]


def expected(number):
    return [without_scores(mask.to_dict()) for mask in expected_masks(number)]


def without(rows, image_id):
    return [row for row in rows if row["image_id"] != image_id]
