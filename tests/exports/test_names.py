"""What names of images are relative to."""

import pytest

from tests.exports.masks import row
from tests.storage.runs import failed_row

PHOTOS = ["file:///data/photos/a/0.jpg", "file:///data/photos/b/1.jpg"]


@pytest.mark.parametrize("format", ["coco", "sa1b"])
def test_a_bad_entry_of_a_list_renames_no_image(exported, format):
    """It is named after the list, which lies elsewhere; most names are cut within its name, or behind its end."""
    lists = ["file:///data/lists/photos.csv#row-2", "file:///l.csv#row-3", "file:///data/photos.csv#row-4"]
    rows = [row(number, [], uri=uri) for number, uri in enumerate(PHOTOS)]
    rows += [failed_row(number, "fetch_error") | {"uri": uri} for number, uri in enumerate(lists, 2)]
    folder, summary = exported(rows, format)
    assert summary.root == "file:///data/photos/"
    if format == "sa1b":
        assert (folder / "a" / "0.json").exists()
        assert (folder / "b" / "1.json").exists()


def test_of_a_run_with_failures_alone_all_images_count(exported):
    _, summary = exported([failed_row(number) | {"uri": uri} for number, uri in enumerate(PHOTOS)], "coco")
    assert summary.root == "file:///data/photos/"


def test_an_image_that_failed_is_in_the_folder_of_all_so_that_names_stay_when_it_is_done_again(exported):
    rows = [row(0, [], uri=PHOTOS[0]), failed_row(1, "fetch_error") | {"uri": PHOTOS[1]}]
    _, summary = exported(rows, "coco")
    assert summary.root == "file:///data/photos/"
