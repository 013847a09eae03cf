import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sam_pipeline.amg import writing
from sam_pipeline.amg.writing import check_place, write_folder, write_json
from sam_pipeline.errors import OutputError
from sam_pipeline.exports.formats.amg import HEADER
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs


def record(top=1, left=2, size=3):
    pixels = np.zeros((10, 14), bool)
    pixels[top : top + size, left : left + size] = True
    return {
        "segmentation": dict(rle.encode(Runs.of_mask(pixels))),
        "area": size * size,
        "bbox": [left, top, size - 1, size - 1],
        "predicted_iou": 0.9837646484375,
        "point_coords": [[3.5, 2.0]],
        "stability_score": 1.0,
        "crop_box": [0, 0, 14, 10],
    }


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_holds_masks_and_their_metadata(tmp_path):
    write_folder(tmp_path / "a", [record(), record(top=5, size=2)], overwrite=False)
    assert files_in(tmp_path) == ["a", "a/0.png", "a/1.png", "a/metadata.csv"]
    first = cv2.imread(str(tmp_path / "a" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert (first.shape, first.dtype) == ((10, 14), np.uint8)
    assert np.argwhere(first == 255).min(axis=0).tolist() == [1, 2]
    assert np.unique(first).tolist() == [0, 255]
    rows = [
        HEADER,
        "0,9,2,1,2,2,3.5,2.0,0.9837646484375,1.0,0,0,14,10",
        "1,4,2,5,1,1,3.5,2.0,0.9837646484375,1.0,0,0,14,10",
    ]
    assert (tmp_path / "a" / "metadata.csv").read_bytes() == "\n".join(rows).encode()


def test_an_image_without_masks_has_a_header_or_an_empty_list(tmp_path):
    write_folder(tmp_path / "a", [], overwrite=False)
    write_json(tmp_path / "a.json", [], overwrite=False)
    assert (tmp_path / "a" / "metadata.csv").read_text() == HEADER
    assert (tmp_path / "a.json").read_text() == "[]"
    for place in (tmp_path / "a", tmp_path / "a.json"):
        check_place(place, overwrite=True)


def test_json_holds_the_records(tmp_path):
    write_json(tmp_path / "a.json", [record()], overwrite=False)
    assert json.loads((tmp_path / "a.json").read_text()) == [record()]


def test_a_folder_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").mkdir()
    write_folder(tmp_path / "a", [record()], overwrite=False)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_results_are_replaced_if_amg_wrote_them(tmp_path):
    write_folder(tmp_path / "a", [record(), record()], overwrite=False)
    write_json(tmp_path / "a.json", [record(), record()], overwrite=False)
    for place in (tmp_path / "a", tmp_path / "a.json"):
        with pytest.raises(OutputError, match=r"exists already.*--overwrite replaces what amg wrote"):
            check_place(place, overwrite=False)
        check_place(place, overwrite=True)
    write_folder(tmp_path / "a", [record()], overwrite=True)
    write_json(tmp_path / "a.json", [], overwrite=True)
    assert files_in(tmp_path) == ["a", "a.json", "a/0.png", "a/metadata.csv"]
    assert (tmp_path / "a.json").read_text() == "[]"


def test_results_that_came_meanwhile_stay_unless_they_are_to_be_replaced(tmp_path):
    write_folder(tmp_path / "a", [record(), record()], overwrite=False)
    write_json(tmp_path / "a.json", [record()], overwrite=False)
    for write, place in ((write_folder, tmp_path / "a"), (write_json, tmp_path / "a.json")):
        with pytest.raises(OutputError, match="exists already"):
            write(place, [], overwrite=False)
    assert files_in(tmp_path) == ["a", "a.json", "a/0.png", "a/1.png", "a/metadata.csv"]
    assert (tmp_path / "a.json").read_text() != "[]"


FOREIGN = {
    "a file more": lambda folder: (folder / "notes.txt").write_text("mine"),
    "a mask more": lambda folder: (folder / "7.png").write_text("mine"),
    "a hidden file": lambda folder: (folder / ".mine").write_text("mine"),
    "a folder in it": lambda folder: (folder / "mine").mkdir(),
    "another table": lambda folder: (folder / "metadata.csv").write_text("id,area\n"),
    "no table": lambda folder: (folder / "metadata.csv").unlink(),
    "a mask less": lambda folder: (folder / "0.png").unlink(),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_with_anything_else_stays_as_it_is(tmp_path, change):
    write_folder(tmp_path / "a", [record()], overwrite=False)
    change(tmp_path / "a")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(OutputError, match="holds what amg did not write"):
        check_place(tmp_path / "a", overwrite=True)
    with pytest.raises(OutputError):
        write_folder(tmp_path / "a", [record()], overwrite=True)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("text", ["", "{}", '[{"segmentation": 1}]', "[1]", "mine"])
def test_another_file_stays_as_it_is(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(OutputError, match="holds what amg did not write"):
        write_json(tmp_path / "a.json", [record()], overwrite=True)
    assert files_in(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == text


def test_links_are_not_followed(tmp_path):
    write_folder(tmp_path / "real", [record()], overwrite=False)
    write_json(tmp_path / "real.json", [record()], overwrite=False)
    for name in ("real", "real.json"):
        (tmp_path / f"link-{name}").symlink_to(tmp_path / name)
        with pytest.raises(OutputError):
            check_place(tmp_path / f"link-{name}", overwrite=True)
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", overwrite=False)


def test_nothing_is_left_of_a_folder_that_cannot_be_finished(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", [record()], overwrite=False)
    monkeypatch.setattr(writing, "metadata_csv", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "a", [record(), record()], overwrite=False)
    assert files_in(tmp_path) == ["a", "a/0.png", "a/metadata.csv"]


def test_results_stay_if_new_ones_cannot_take_their_place(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", [record(), record()], overwrite=False)
    rename = Path.rename

    def fail_once(path, target):
        if Path(target).name == "a" and "before" not in path.name:
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="no"):
        write_folder(tmp_path / "a", [record()], overwrite=True)
    assert files_in(tmp_path) == ["a", "a/0.png", "a/1.png", "a/metadata.csv"]
