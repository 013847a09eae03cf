import json
import logging

import pyarrow as pa
import pytest

from sam_pipeline.errors import ConfigError, InputError, StorageUnavailableError
from sam_pipeline.results.categories import Categories, read_categories, read_names_to_show, used_category_ids
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from tests.report.runs import grid_rows, write_run
from tests.storage.runs import FINGERPRINT, mask, row, shard, take_over

COCO = {"categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 1, "name": "cup"}]}
FILES = {
    "coco.json": (json.dumps(COCO), {3: "cat", 1: "cup"}),
    "data.yaml": ("nc: 2\nnames: [cat, cup]\n", {0: "cat", 1: "cup"}),
    "other.yml": ("names:\n  2: cat\n  7: 8\n", {2: "cat", 7: "8"}),
    "negative.json": ('{"categories": [{"id": -1, "name": "cat"}]}', {-1: "cat"}),
    "classes.txt": ("cat\ncoffee cup\n\n", {0: "cat", 1: "coffee cup"}),
}


@pytest.fixture
def results(tmp_path):
    """One image with a mask of category 3, one of none; planned from coco.json, which is not there yet."""
    output = str(tmp_path / "run")
    write_plan(output, f"file://{tmp_path}/coco.json", source_table([SourceObject("file:///in/0.jpg", 1, "a")]), {})
    table = take_over(output)
    masks = [mask(1) | {"category_id": 3, "prompt_id": 0}, mask(2)]
    table.commit([shard(output, [row(0, 2, masks=masks)])])
    return Results.open(output, {})


@pytest.mark.parametrize("name", FILES)
def test_names_are_read_from_each_kind_of_file(results, tmp_path, name):
    text, names = FILES[name]
    (tmp_path / name).write_text(text)
    assert read_categories(results, str(tmp_path / name)).names == names


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", "[]", "no list of categories"),
        ("a.json", '{"categories": [{"id": 1}]}', "each needs a whole number as its id, and a name"),
        ("a.json", '{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "the id 1 comes twice"),
        ("a.json", '{"categories": [{"id": 1, "name": "\\ud800"}]}', "each needs a whole number as its id, and a name"),
        ("a.json", '{"categories": []}', "no categories in"),
        ("a.yaml", "nc: 2", "has no names"),
        ("a.yaml", "names: {x: y}", "each needs a whole number as its id"),
        ("a.yaml", "names: [a", "not YAML"),
        ("a.txt", "", "no categories in"),
        ("a.yaml", "names: {0: cat, 9223372036854775807: cup}", "do not fit into 64 bits"),
        ("a.txt", "cat\n\ncup\n", "each needs a whole number as its id"),
    ],
)
def test_a_file_without_names_is_refused(results, tmp_path, name, text, problem):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        read_categories(results, str(tmp_path / name))


def test_what_the_images_were_planned_from_says_the_names(results, tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    assert read_categories(results).names == {3: "cat", 1: "cup"}


def test_a_source_that_is_gone_says_none(results, caplog):
    with caplog.at_level(logging.WARNING):
        assert read_categories(results) == Categories()
    assert "no names of categories: input not found" in caplog.text


def test_names_to_show_need_no_answer(results, tmp_path, monkeypatch, caplog):
    def unavailable(*_):
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr("sam_pipeline.results.categories.read_json", unavailable)
    with caplog.at_level(logging.WARNING):
        assert read_names_to_show(results) == Categories()
    assert "no names of categories: no answer" in caplog.text
    for asked in (lambda: read_names_to_show(results, str(tmp_path / "coco.json")), lambda: read_categories(results)):
        with pytest.raises(StorageUnavailableError):
            asked()


def test_of_a_run_of_the_grid_no_names_are_looked_for(tmp_path, monkeypatch):
    output = write_run(str(tmp_path / "run"), grid_rows())
    monkeypatch.setattr("sam_pipeline.results.categories.existing_plan", lambda *_: pytest.fail("it is read"))
    assert read_names_to_show(Results.open(output, {})) == Categories()
    (tmp_path / "names.txt").write_text("cat")
    assert read_names_to_show(Results.open(output, {}), str(tmp_path / "names.txt")).names == {0: "cat"}


def test_masks_of_the_grid_alone_have_no_category_whatever_lies_near_the_images(results, tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    of_grid = results.select(MaskSelection(source="grid"))
    assert (read_categories(of_grid), used_category_ids(of_grid)) == (Categories(), {None})
    assert read_categories(of_grid, of_grid=True).names == {3: "cat", 1: "cup"}
    assert read_categories(of_grid, str(tmp_path / "coco.json")).names == {3: "cat", 1: "cup"}
    assert read_categories(results.select(MaskSelection(source="prompts"))).names == {3: "cat", 1: "cup"}


def test_a_filtered_run_of_the_grid_alone_has_no_category_either(results, tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    filters = [{"source": "run", "version": 1, "selection": {"source": "grid"}}]
    output = str(tmp_path / "filtered")
    write_plan(output, f"file://{tmp_path}/coco.json", source_table([SourceObject("file:///in/0.jpg", 1, "a")]), {})
    take_over(output, FINGERPRINT | {"mode": "both", "filters": filters})
    assert read_categories(Results.open(output, {})) == Categories()


def test_many_names_are_gone_through_once():
    looks = []

    class Names(dict):
        def __iter__(self):
            looks.append(1)
            return super().__iter__()

    categories = Categories(Names({number: str(number) for number in range(1000)}))
    assert len(categories.exported(with_object=True)) == 1001
    assert len(looks) <= 2


def test_export_ids_begin_at_1():
    coco, yolo = Categories({3: "cat", 1: "cup"}), Categories({0: "cat", 1: "cup"})
    assert coco.export_ids(pa.array([3, None, 1, 3])).tolist() == [3, 4, 1, 3]
    assert yolo.export_ids(pa.array([0, None, 1])).tolist() == [1, 3, 2]
    assert Categories({-2: "cat", 0: "cup"}).export_ids(pa.array([-2, None, 0])).tolist() == [1, 4, 3]
    assert Categories().export_ids(pa.array([None, None], pa.int64())).tolist() == [1, 1]
    assert yolo.exported(with_object=True) == [
        {"id": 1, "name": "cat", "supercategory": ""},
        {"id": 2, "name": "cup", "supercategory": ""},
        {"id": 3, "name": "object", "supercategory": ""},
    ]


def test_a_category_without_a_name_is_refused():
    with pytest.raises(ConfigError, match="category 7 has no name; give --categories"):
        Categories({1: "cat"}).export_id(7)


def test_used_categories_are_those_of_masks(results):
    assert used_category_ids(results) == {3, None}
    assert used_category_ids(results.select(MaskSelection(category_ids=(3, 4)))) == {3}
