import json

import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.evaluation.ground_truth.annotation_file import TruthImage, category_of, read_ground_truth

IMAGE = {"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}
OBJECT = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}
CAT = {"id": 2, "name": "cat"}


def read(folder, content, **options):
    place = folder / "truth.json"
    place.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_ground_truth(str(place), {}, **options)


def test_what_is_read(tmp_path):
    others = [{"id": 7, "coco_url": "http://host/b.jpg"}, {"id": 3, "file_name": "c.jpg", "height": 0, "width": 9}]
    truth = read(tmp_path, {"images": [*others, IMAGE], "annotations": [OBJECT], "categories": [CAT]})
    assert truth.images == [
        TruthImage(1, "a.jpg", (3, 4)),
        TruthImage(3, "c.jpg", None),
        TruthImage(7, "http://host/b.jpg", None),
    ]
    assert truth.annotations == {1: [OBJECT]}
    assert truth.categories == {2: "cat"}
    assert (truth.num_stray, truth.num_uncategorized) == (0, 0)


@pytest.mark.parametrize("other", [{"category_id": 9}, {"category_id": "x"}, {"category_id": None}])
def test_annotations_of_no_category_are_counted_and_kept(tmp_path, other):
    content = {"images": [IMAGE], "annotations": [OBJECT, OBJECT | other], "categories": [CAT]}
    truth = read(tmp_path, content)
    assert (truth.num_stray, truth.num_uncategorized) == (0, 1)
    assert truth.annotations == {1: content["annotations"]}


def test_an_annotation_without_a_category_is_of_none_where_the_file_lists_some(tmp_path):
    without = {name: value for name, value in OBJECT.items() if name != "category_id"}
    content = {"images": [IMAGE], "annotations": [OBJECT, without], "categories": [CAT | {"id": 1}, CAT]}
    truth = read(tmp_path, content)
    assert [category_of(each) for each in truth.annotations[1]] == [2, None]
    assert truth.num_uncategorized == 1
    truth = read(tmp_path, content | {"categories": []})
    assert [category_of(each) for each in truth.annotations[1]] == [2, 1]
    assert (truth.categories, truth.num_uncategorized) == ({1: "1", 2: "2"}, 0)


def test_several_ids_of_one_file_are_one_image_where_the_run_has_it_once(tmp_path):
    images = [IMAGE | {"id": 5}, IMAGE | {"id": 3}, IMAGE, IMAGE | {"id": 4, "coco_url": "http://host/a.jpg"}]
    objects = [OBJECT | {"image_id": number} for number in (1, 3, 4, 5)]
    content = {"images": images, "annotations": objects, "categories": [CAT]}
    assert len(read(tmp_path, content).images) == 4  # names may be the last parts of others
    truth = read(tmp_path, content, is_input=True)
    assert [image.image_id for image in truth.images] == [4, 5]  # 5 is the first of the file, which is planned
    assert truth.annotations == {5: [objects[0], objects[1], objects[3]], 4: [objects[2]]}


@pytest.mark.parametrize("stray", [{"image_id": 9}, {"image_id": None}])
def test_annotations_of_nothing_are_counted(tmp_path, stray):
    strays = [OBJECT, OBJECT | stray, "no object"]
    assert read(tmp_path, {"images": [IMAGE], "annotations": strays, "categories": [CAT]}).num_stray == 2


def test_a_name_that_no_file_can_have_is_none(tmp_path):
    content = {"images": [IMAGE, IMAGE | {"id": 2, "file_name": "\ud800.jpg"}], "annotations": [OBJECT]}
    assert [image.file_name for image in read(tmp_path, content).images] == ["a.jpg", None]


def test_ids_may_be_text_and_numbers_written_as_floats(tmp_path):
    content = {"images": [IMAGE | {"id": "a"}], "annotations": [OBJECT | {"image_id": "a", "category_id": 2.0}]}
    truth = read(tmp_path, content | {"categories": [CAT]})
    assert list(truth.annotations) == ["a"]


def test_without_categories_they_are_called_by_their_numbers(tmp_path):
    truth = read(tmp_path, {"images": [IMAGE], "annotations": [OBJECT, OBJECT | {"category_id": 5}]})
    assert truth.categories == {2: "2", 5: "5"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds a list, as COCO's results do"),
        ("7", "no list `images`"),
        ({"annotations": [OBJECT]}, "no list `images`"),
        ({"images": [IMAGE]}, "no list `annotations`"),
        ({"images": [IMAGE], "annotations": []}, "no annotations in"),
        ({"images": [IMAGE], "annotations": [OBJECT | {"image_id": 2}]}, "names an image of the file"),
        ({"images": [IMAGE, IMAGE], "annotations": [OBJECT]}, "two images of .* have the id 1"),
        ({"images": ["a.jpg"], "annotations": [OBJECT]}, "an image has no id"),
    ],
)
def test_what_is_no_ground_truth(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)
