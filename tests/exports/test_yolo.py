"""YOLO's labels, read by the rules of its loaders."""

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.exports.masks import all_shapes, prompted, row, shapes, stored
from tests.exports.pictures import in_folder, in_parquet, in_tar, in_zip, picture, pixels, run_of, turned
from tests.exports.yolo_loader import draw, images_of, keep, label_path, read_rows
from tests.storage.runs import failed_row

HEIGHT, WIDTH = next(iter(shapes().values())).shape


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_masks_are_drawn_again_from_their_labels_in_their_order(exported, every_shape):
    folder, summary = exported(every_shape, "yolo-seg")
    assert sorted(path.name for path in (folder / "labels").iterdir()) == ["0000.txt", "0001.txt", "0003.txt"]
    rows = read_rows(folder / "labels" / "0000.txt")
    assert len(rows) == len(shapes())
    ious = []
    for (number, values), (name, mask) in zip(rows, shapes().items(), strict=True):
        assert number == 0
        for rounding in (np.rint, np.trunc):
            found = iou(draw(values, HEIGHT, WIDTH, rounding=rounding), mask)
            assert found == 1 or name in ("with an island in its hole", "two parts", "at random")
            assert found > 0.85
        ious.append(found)
    assert summary.loss.num_masks == len(shapes()) + 2
    assert summary.loss.mean() == pytest.approx(np.mean([*ious, *ious[:2]]))
    assert (folder / "labels" / "0001.txt").read_text() == ""


def test_parts_become_rows_or_the_largest_one_alone(exported):
    rows = [row(0, [stored(shapes()["two parts"]), stored(shapes()["disc"])])]
    folder, summary = exported(rows, "yolo-seg", "split", parts="split")
    found = [draw(values, HEIGHT, WIDTH) for _, values in read_rows(folder / "labels" / "0000.txt")]
    assert len(found) == 3
    assert np.array_equal(found[0] | found[1], shapes()["two parts"])
    assert summary.num_masks == 2
    assert summary.warnings["masks of several parts have a row for each part"] == 1
    folder, summary = exported(rows, "yolo-seg", "largest", parts="largest")
    found = [draw(values, HEIGHT, WIDTH) for _, values in read_rows(folder / "labels" / "0000.txt")]
    assert len(found) == 2
    assert not (found[0] & ~shapes()["two parts"]).any()
    assert summary.loss.mean() < 0.9


def test_simplifying_is_seen_in_the_loss(exported, every_shape):
    exact, whole = exported(every_shape, "yolo-seg", "exact")
    simple, simpler = exported(every_shape, "yolo-seg", "simple", simplify=1.5)
    assert simpler.loss.mean() < whole.loss.mean()
    name = "labels/0000.txt"
    assert (simple / name).stat().st_size < 0.8 * (exact / name).stat().st_size


def test_boxes_cover_the_pixels_of_their_masks(exported, every_shape):
    folder, summary = exported(every_shape, "yolo-box")
    rows = read_rows(folder / "labels" / "0000.txt")
    for (_, (cx, cy, w, h)), mask in zip(rows, shapes().values(), strict=True):
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        found = [(cx - w / 2) * WIDTH, (cy - h / 2) * HEIGHT, (cx + w / 2) * WIDTH, (cy + h / 2) * HEIGHT]
        assert found == pytest.approx(expected, abs=0.01)
    assert summary.loss.num_masks == 0


def test_boxes_of_prompts_are_written_where_they_are_asked_for(exported):
    folder, _ = exported([row(0, [prompted(shapes()["disc"], None)])], "yolo-box", bbox="prompt")
    ((_, (cx, cy, w, h)),) = read_rows(folder / "labels" / "0000.txt")
    assert [cx * WIDTH, cy * HEIGHT, w * WIDTH, h * HEIGHT] == pytest.approx([50.5, 40.5, 52, 52], abs=1e-3)


def test_classes_begin_at_zero_without_a_gap_and_have_names(exported, tmp_path):
    (tmp_path / "names.yaml").write_text('names: {3: "a: cat", 7: dög}')
    masks = [prompted(shapes()["disc"], number) for number in (7, 3, None)]
    folder, _ = exported([row(0, masks)], "yolo-box", categories=str(tmp_path / "names.yaml"))
    content = yaml.safe_load((folder / "data.yaml").read_text())
    assert content == {
        "train": "images",
        "val": "images",
        "nc": 3,
        "names": {0: "a: cat", 1: "dög", 2: "object"},
    }
    assert [number for number, _ in read_rows(folder / "labels" / "0000.txt")] == [1, 0, 2]


@pytest.mark.parametrize("format", ["yolo-seg", "yolo-box"])
def test_rows_that_loaders_drop_are_counted(exported, format):
    disc, hole = shapes()["with a hole"] | shapes()["disc"], shapes()["with a hole"]
    masks = [prompted(disc, None), prompted(hole, None), prompted(disc, None), stored(shapes()["disc"])]
    folder, summary = exported([row(0, masks), row(1, masks[:1])], format)
    rows = read_rows(folder / "labels" / "0000.txt")
    assert len(rows) - len(keep(rows)) == 2
    assert summary.warnings["masks have the class and box of an earlier one: ultralytics' loader drops them"] == 2
    assert summary.num_masks == 5


def test_a_run_with_failures_alone_has_data_yaml(exported):
    folder, summary = exported([failed_row(0)], "yolo-seg", split=0.5)
    assert yaml.safe_load((folder / "data.yaml").read_text())["val"] == "images/val"
    assert summary.num_images == 0


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_loaders_find_the_labels_of_each_image(exported, tmp_path, how):
    names = ["a/x.jpg", "a/x.png", "b.c/y.z.JPG", "train/images/w.jpg", "a%0Ab.jpg"]
    files = {name: picture(number, "PNG" if "png" in name else "JPEG") for number, name in enumerate(names)}
    run = run_of(tmp_path, files)
    folder, _ = exported(run, "yolo-seg", images=how, split=0.6, seed=1)
    found = [*images_of(folder, "train"), *images_of(folder, "val")]
    assert len(images_of(folder, "train")) == 3
    assert len(found) == 5
    for path in found:
        assert path.is_symlink() == (how == "symlink")
        assert len(read_rows(type(path)(label_path(path)))) == len(shapes())
    labels = [path for path in folder.rglob("*.txt") if ".sam-pipeline-export" not in path.parts]
    assert {label_path(path) for path in found} == {str(path) for path in labels}
    assert {path.read_bytes() for path in found} == set(files.values())


@pytest.mark.parametrize("store", [in_folder, in_tar, in_zip, in_parquet])
def test_images_are_copied_from_wherever_they_are_and_stand_upright(exported, tmp_path, store):
    files = {"0.jpg": picture(0), "1.jpg": turned(1), "2.jpg": picture(2)}
    run = run_of(tmp_path, files, store)
    folder, summary = exported(run, "yolo-box", images="copy")
    found = images_of(folder, "train")
    assert len(found) == 3
    for number, path in enumerate(found):
        with Image.open(path) as image:
            assert image.getexif().get(0x0112, 1) == 1
            assert np.abs(np.asarray(image).astype(int) - pixels(number)).max() <= 8
        assert (path.read_bytes() == list(files.values())[number]) == (number != 1)
    assert summary.warnings == {
        "images were turned upright, and compressed anew, because of their EXIF orientation": 1,
        **{key: n for key, n in summary.warnings.items() if "class and box" in key},
    }


def test_images_that_are_gone_are_counted_and_the_others_done(exported, tmp_path):
    run = run_of(tmp_path, {f"{number}.jpg": picture(number) for number in range(3)})
    os.unlink(tmp_path / "in" / "1.jpg")
    (tmp_path / "in" / "2.jpg").write_bytes(picture(7) + b" ")
    folder, summary = exported(run, "yolo-box", images="copy")
    assert [path.name for path in images_of(folder, "train")] == ["0.jpg"]
    assert summary.warnings["images are gone or changed, and have no copy"] == 2
    assert len(list((folder / "labels").iterdir())) == 3


def test_no_share_is_above_one_at_the_border(exported):
    for size in ((7, 9), (3, 1001), (1, 1)):
        rows = [row(0, [stored(np.ones(size, bool))], *size)]
        for format in ("yolo-seg", "yolo-box"):
            folder, _ = exported(rows, format, f"{format}-{size}") if size != (7, 9) else exported(rows, format, format)
            ((_, values),) = read_rows(folder / "labels" / "0000.txt")
            if format == "yolo-seg":
                assert draw(values, *size).all()
            else:
                assert values.tolist() == [0.5, 0.5, 1, 1]


def test_images_beside_nothing_are_said(exported, every_shape):
    _, summary = exported(every_shape, "yolo-box")
    assert summary.warnings["images are not beside their labels: put them below images/, or use --images"] == 3
    assert all_shapes()
