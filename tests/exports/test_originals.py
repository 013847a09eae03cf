"""Links to the files that were annotated, and their names in lists."""

import json
import os

import pytest

from tests.exports.pictures import in_list, picture, run_of

# A list of a program on Windows, one that encodes names as URLs do, and a name as it is.
NAMES = {"a/0.jpg": "a\\0.jpg", "b c/1.jpg": "b%20c/1.jpg", "d/2.jpg": "d/2.jpg"}


@pytest.fixture
def run_by_other_names(tmp_path):
    files = {name: picture(number) for number, name in enumerate(NAMES)}
    return run_of(tmp_path, files, lambda place, files: in_list(place, files, NAMES.values()))


def test_a_link_is_found_by_every_name_that_the_reader_takes(exported, run_by_other_names, tmp_path):
    folder, summary = exported(run_by_other_names, "coco", images="symlink")
    links = [path for path in folder.rglob("*.jpg") if path.is_symlink()]
    assert {os.readlink(path) for path in links} == {str(tmp_path / "in" / name) for name in NAMES}
    assert not summary.warnings
    # The file names it as the list does, and so does the link.
    names = [image["file_name"] for image in json.loads((folder / "annotations.json").read_text())["images"]]
    assert {path.relative_to(folder / "images").as_posix() for path in links} == set(names)


def test_labelme_finds_an_image_by_every_name_that_the_reader_takes(exported, run_by_other_names, tmp_path):
    folder, _ = exported(run_by_other_names, "labelme")
    labels = [path for path in folder.rglob("*.json") if ".sam-pipeline-export" not in path.parts]
    found = {(path.parent / json.loads(path.read_text())["imagePath"]).resolve() for path in labels}
    assert found == {tmp_path / "in" / name for name in NAMES}


def test_a_listed_file_that_is_gone_is_not_looked_for_by_another_name(exported, tmp_path):
    """A listing is never wrong about a name: what has the other one is another file."""
    run = run_of(tmp_path, {"a%20b.jpg": picture(0), "c.jpg": picture(1)})
    os.rename(tmp_path / "in" / "a%20b.jpg", tmp_path / "in" / "a b.jpg")
    folder, summary = exported(run, "coco", images="symlink")
    assert [path.name for path in folder.rglob("*.jpg")] == ["c.jpg"]
    assert summary.warnings == {"images are gone or changed, and have no link": 1}
    folder, _ = exported(run, "labelme", "labels")
    assert json.loads((folder / "a%20b.json").read_text())["imagePath"] == "a%20b.jpg"


@pytest.mark.parametrize("content", [b"no image", b""])
def test_a_file_that_is_no_image_any_more_has_no_link(exported, tmp_path, content):
    run = run_of(tmp_path, {"0.jpg": picture(0), "1.jpg": picture(1)}, in_list)
    (tmp_path / "in" / "1.jpg").write_bytes(content)
    folder, summary = exported(run, "coco", images="symlink")
    assert [path.name for path in folder.rglob("*.jpg")] == ["0.jpg"]
    assert summary.warnings == {"images are gone or changed, and have no link": 1}
