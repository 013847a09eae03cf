import time

import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.evaluation.ground_truth.annotation_file import TruthImage
from sam_pipeline.evaluation.ground_truth.image_matching import match_images


def images(*names):
    return [TruthImage(number, name, None) for number, name in enumerate(names, 1)]


def matched(names, uris, extras=None):
    return match_images(images(*names), uris, extras or [None] * len(uris))


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("a.jpg", "/data/a.jpg"),
        ("a.jpg", "a.jpg"),
        ("/data/a.jpg", "/data/a.jpg"),
        ("./x/a.jpg", "s3://bucket/data/x/a.jpg"),
        ("file:///data/a.jpg", "file:///data/a.jpg"),
        ("val2017/a.jpg", "/photos/a.jpg"),  # no longer path, but one file of that name
        ("http://images.org/val2017/a.jpg", "/photos/a.jpg"),
        ("x\\a.jpg", "/data/x/a.jpg"),
        ("a%20b.jpg", "/data/a b.jpg"),
        ("cafe\u0301.jpg", "/data/caf\u00e9.jpg"),
        ("x/a.jpg", "s3://bucket/photos.tar#x/a.jpg"),
        ("photos.zip/x/a.jpg", "/data/photos.zip#x/a.jpg"),
    ],
)
def test_names_of_one_image(name, uri):
    assert matched([name], ["/else.jpg", uri]) == {0: 1}


@pytest.mark.parametrize("name", ["b.jpg", "a.png", "ata/a.png", "", None])
def test_names_of_none(name):
    assert matched([name, "else.jpg"], ["/data/a.jpg", "/data/else.jpg"]) == {1: 1}


def test_a_longer_path_wins_over_a_name_alone():
    uris = ["/data/train/1.jpg", "/data/val/1.jpg"]
    assert matched(["val/1.jpg", "train/1.jpg"], uris) == {0: 1, 1: 0}
    assert matched(["train/1.jpg", "val/1.jpg"], uris[:1]) == {0: 0}


@pytest.mark.parametrize("others", [(), ("/d/seq4/0001.jpg",)])
def test_a_name_alone_counts_where_no_image_of_that_name_is_found_by_its_path(others):
    """Each video has a frame 0001.jpg; that of another video is no match."""
    uris = ["/d/seq1/0001.jpg", "/d/seq3/0001.jpg", *others, "/d/seq3/0002.jpg"]
    assert matched(["seq1/0001.jpg", "seq2/0001.jpg"], uris) == {0: 0}
    assert matched(["seq1/0001.jpg", "seq2/0001.jpg", "seq2/0002.jpg"], uris) == {0: 0, 2: len(uris) - 1}


def test_images_of_one_name_are_not_compared_with_each_other_pair_by_pair():
    names = [f"{number}/image.jpg" for number in range(30_000)]
    start = time.process_time()
    assert matched(names, [f"/d/{name}" for name in reversed(names)]) == dict(enumerate(reversed(range(30_000))))
    with pytest.raises(InputError, match="30000 images of the ground truth fit several"):
        matched(["image.jpg"] * 30_000, names)
    with pytest.raises(InputError, match="30000 images of the ground truth fit several"):
        matched([f"other/{name}" for name in names], names)
    assert time.process_time() - start < 20  # of pairs a minute


def test_a_path_below_the_folder_of_all_images_wins_over_the_end_of_another():
    uris = ["s3://b/d/1.jpg", "s3://b/d/x/1.jpg", "s3://b/d/x/y/x/1.jpg"]
    assert matched(["1.jpg", "x/1.jpg", "x/y/x/1.jpg"], uris) == {0: 0, 1: 1, 2: 2}


def test_names_that_fit_several_images_are_named():
    with pytest.raises(InputError, match=r"1 images .* '1.jpg': '/train/1.jpg' and '/val/1.jpg'; their file_name must"):
        matched(["1.jpg", "2.jpg"], ["/train/1.jpg", "/val/1.jpg", "/val/2.jpg"])


def test_images_that_fit_several_names_are_named():
    with pytest.raises(InputError, match=r"1 images of the run .* '/d/1.jpg': 'train/1.jpg' and 'val/1.jpg'"):
        matched(["train/1.jpg", "val/1.jpg"], ["/d/1.jpg"])


def test_without_names_ids_count():
    extras = ['{"coco_image_id": 2}', None, '{"coco_image_id": "1"}', '{"coco_image_id": 1, "more": 0}']
    assert matched([None, None], ["/a", "/b", "/c", "/d"], extras) == {0: 3, 1: 0}
