import json

import pytest

from sam_pipeline.storage.prompts.prompt_files import read_regions
from tests.storage.prompts.reading import read_rows

BOX = [1, 2, 3, 4]


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "prompts.JSON"
        path.write_text(json.dumps(content))
        return path

    return write


def test_true_is_not_the_image_with_the_id_one(file):
    images = [{"id": 1, "file_name": "one.jpg"}, {"id": True, "file_name": "true.jpg"}]
    annotations = [{"image_id": image_id, "bbox": BOX} for image_id in (True, 1, "1", 1.0, 1.5, None)]
    rows = read_rows(file({"images": images, "annotations": annotations}))
    assert [row["key"] for row in rows] == [None, "one.jpg", "one.jpg", "one.jpg", None, None]


@pytest.mark.parametrize("own_id", [5, 5.0, "5", "5.0"])
def test_an_id_is_a_number_however_it_is_written(file, own_id):
    (row,) = read_rows(file([{"image_id": 1, "bbox": BOX, "id": own_id}]))
    assert row["prompt_id"] == 5


@pytest.mark.parametrize("own_id", [True, "a5", 5.5, -1, 2**63])
def test_an_id_that_is_no_number_is_said_and_replaced_by_the_position(file, own_id, caplog):
    rows = read_rows(file([{"image_id": 1, "bbox": BOX}, {"image_id": 1, "bbox": BOX, "id": own_id}]))
    assert [row["prompt_id"] for row in rows] == [0, 1]
    assert f"1 annotations of {file([])} have an id that is no whole number" in caplog.text
    assert repr(own_id) in caplog.text


@pytest.mark.parametrize("image_id", [7, 7.0, "7"])
def test_images_and_their_annotations_may_write_an_id_in_different_ways(file, image_id):
    images = [{"id": image_id, "file_name": "seven.jpg"}]
    annotations = [{"image_id": other, "bbox": BOX} for other in (7, 7.0, "7")]
    rows = read_rows(file({"images": images, "annotations": annotations}))
    assert [row["key"] for row in rows] == ["seven.jpg"] * 3


def test_results_may_write_ids_as_floats(file):
    assert [row["key"] for row in read_rows(file([{"image_id": 139.0, "bbox": BOX, "category_id": 2.0}]))] == ["139"]


@pytest.mark.parametrize("images", [None, {}, [7, {"id": 1}, {"file_name": "a"}, {"id": [], "file_name": "a"}]])
def test_images_that_are_none_leave_the_id(file, images):
    assert read_rows(file({"images": images, "annotations": [{"image_id": 1, "bbox": BOX}]}))[0]["key"] == "1"


def test_of_an_id_that_comes_twice_the_first_name_counts(file):
    images = [{"id": 1, "file_name": "\ud800"}, {"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}]
    assert read_rows(file({"images": images, "annotations": [{"image_id": 1, "bbox": BOX}]}))[0]["key"] == "a"


def test_points_and_masks_of_results(file):
    rows = read_rows(
        file([{"image_id": 1, "point_coords": [[1, 2]]}, {"image_id": 1, "mask_input": [[0.5] * 256] * 256}])
    )
    assert (rows[0]["point_coords"], rows[0]["point_labels"]) == ([[1, 2]], [1])
    assert len(rows[1]["mask_input"]) == 262_144


@pytest.mark.parametrize("segmentation", [None, [], {}, "x", [1, 2, 3, 4, 5, 6]])
def test_without_polygons_the_region_is_the_box(file, segmentation):
    (row,) = read_rows(file([{"image_id": 1, "bbox": BOX, "segmentation": segmentation}]), read_regions)
    assert (row["polygon"], row["box_xyxy"], row["error"]) == (None, [1, 2, 4, 6], None)


def test_each_wrong_polygon_is_a_row_and_the_box_is_no_substitute(file):
    flat = [0, 0, 5, 0, 5, 5]
    segmentation = [flat, flat[:5], flat[:4], None, [*flat[:5], "5"], []]
    rows = read_rows(file([{"image_id": 1, "id": 9, "bbox": BOX, "segmentation": segmentation}]), read_regions)
    assert [row["polygon"] for row in rows] == [[[0, 0], [5, 0], [5, 5]], None, None, None, None, None]
    assert [row["box_xyxy"] for row in rows] == [None] * 6
    assert all(row["error"] for row in rows[1:])
    assert {row["prompt_id"] for row in rows} == {9}


def test_scores_and_categories_are_not_for_regions(file):
    (row,) = read_rows(
        file([{"image_id": 1, "bbox": BOX, "score": 0.1, "category_id": 2}]), read_regions, min_score=0.5
    )
    assert (row["score"], row["category_id"]) == (None, None)
