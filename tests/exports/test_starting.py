"""What an export that was cut off goes on with, and what is refused before one begins."""

import json

import pytest

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.exports import exporting
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results import results
from sam_pipeline.storage.tables.delta_place import Table
from tests.exports.masks import all_shapes, prompted, row, shapes
from tests.storage.runs import shard, take_over


@pytest.fixture
def cut_off(exported, monkeypatch):
    """Begin an export that is cut off before its end."""

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    def begin(run, format, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(exporting, "finish", die)
            with pytest.raises(Killed):
                exported(run, format, **settings)

    return begin


def review(run, dropped):
    images = [
        {"image_id": number, "uri": f"file:///in/{number:04}.jpg", "keep": number not in dropped, "dropped_masks": []}
        for number in range(3)
    ]
    return json.dumps({"format": "sam-pipeline review", "version": 1, "output": run, "images": images})


def test_an_export_does_not_go_on_with_other_categories(exported, make_run, cut_off, tmp_path):
    run = make_run([row(number, [prompted(shapes()["disc"], number % 2)]) for number in range(3)])
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    cut_off(run, "yolo-box", categories=str(names))
    for changed in ("dog\ncat\n", "cat\ndog\nbird\n"):
        names.write_text(changed)
        with pytest.raises(ConfigError, match=r"with other settings \(content of categories: '\w{64}' there, '"):
            exported(run, "yolo-box", categories=str(names))
    names.write_text("cat\ndog\n\n")  # the same names
    _, summary = exported(run, "yolo-box", categories=str(names))
    assert summary.num_masks == 3


def test_an_export_does_not_go_on_with_another_review(exported, make_run, cut_off, tmp_path):
    run = make_run([row(number, all_shapes()[:1]) for number in range(3)])
    ticks = tmp_path / "review.json"
    ticks.write_text(review(run, dropped=[]))
    cut_off(run, "coco", reviewed=str(ticks))
    ticks.write_text(review(run, dropped=[1]))
    with pytest.raises(ConfigError, match=r"with other settings \(content of reviewed: "):
        exported(run, "coco", reviewed=str(ticks))
    ticks.write_text(json.dumps(json.loads(review(run, dropped=[])), indent=4))
    _, summary = exported(run, "coco", reviewed=str(ticks))
    assert summary.num_images == 3


def test_an_export_goes_on_at_its_version_although_storage_fails_for_a_moment(exported, make_run, cut_off, monkeypatch):
    run = make_run([row(number, []) for number in range(2)], 3)
    cut_off(run, "coco")
    take_over(run, {"schema_version": 3, "max_pixels": 10**8}).commit([shard(run, [row(2, [])])])
    opened = []

    def fail_once(*arguments):
        opened.append(arguments)
        if len(opened) == 1:
            raise ConnectionError("reset by peer")
        return Table(*arguments)

    monkeypatch.setattr(results, "Table", fail_once)
    _, summary = exported(run, "coco")
    assert (summary.num_images, len(opened)) == (2, 2)


@pytest.mark.parametrize(("format", "name"), [("coco", "annotations.json"), ("yolo-box", "data.yaml")])
def test_a_file_that_came_while_an_export_was_cut_off_is_not_replaced(
    exported, make_run, cut_off, tmp_path, format, name
):
    run, mine = make_run([row(number, all_shapes()[:1]) for number in range(3)]), tmp_path / "export" / name
    cut_off(run, format)
    mine.write_text("mine")
    for _ in range(2):
        with pytest.raises(OutputError, match=rf"{name} is no file of an export; move it"):
            exported(run, format)
    assert mine.read_text() == "mine"
    mine.unlink()
    _, summary = exported(run, format)
    assert summary.num_masks == 3


def test_an_export_does_not_go_where_the_run_keeps_its_tables(exported, make_run):
    run = make_run([row(0, [])])
    for place in ("prompts", "masks/x"):
        with pytest.raises(ConfigError, match="lies in a table of"):
            exported(run, "coco", f"{run}/{place}")


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"shard_images must be from 1 to 2147483647, got 1000000000000000000"):
        ExportSettings(format="coco", shard_images=10**19)


@pytest.mark.parametrize(("name", "value"), [("parts", "split"), ("simplify", 3.0)])
def test_rle_takes_no_settings_of_polygons(exported, every_shape, name, value):
    with pytest.raises(ConfigError, match=rf"RLE takes no {name}, got {value!r}; give --segmentation polygon"):
        exported(every_shape, "coco", **{name: value})
