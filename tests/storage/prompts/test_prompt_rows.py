import pyarrow as pa
import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.lists.manifest import URI_COLUMNS, manifest_images
from sam_pipeline.storage.inputs.source_object import SourceOptions
from sam_pipeline.storage.prompts import prompt_rows as module
from sam_pipeline.storage.prompts.prompt_rows import KEY_COLUMNS, KEYED_PROMPTS, key_columns, row_tables


def test_the_first_name_there_is_counts_whatever_the_order_in_the_file():
    columns = {"bbox": False, **dict.fromkeys(reversed(KEY_COLUMNS), True)}
    for index, name in enumerate(KEY_COLUMNS):
        assert key_columns("f", columns, are_regions=False)[0] == name, index
        del columns[name]


def test_prompts_and_lists_look_for_names_in_the_same_order():
    assert (*URI_COLUMNS, "image_id") == KEY_COLUMNS


def test_lists_look_at_values_and_prompts_do_not(tmp_path):
    (tmp_path / "m.csv").write_text("image,key\n17,im/a.png\n")
    (table,) = manifest_images(str(tmp_path / "m.csv"), SourceOptions({}))
    assert table["uri"].to_pylist() == [f"file://{tmp_path}/im/a.png"]
    assert key_columns("f", {"image": True, "key": True, "bbox": False}, are_regions=False) == ["image", "key"]


def test_a_column_that_cannot_name_images_is_passed_over():
    columns = {"image": False, "path": True, "bbox": False}
    assert key_columns("f", columns, are_regions=False) == ["path"]
    with pytest.raises(InputError, match=r"no column of f names the image, .* its columns: 'image', 'bbox'"):
        key_columns("f", {"image": False, "bbox": False}, are_regions=False)


@pytest.mark.parametrize(
    ("column", "are_regions", "counts"),
    [
        ("bbox", False, True),
        ("point_coords", False, True),
        ("mask_input", False, True),
        ("polygon", False, False),
        ("point_labels", False, False),
        ("bbox", True, True),
        ("polygon", True, True),
        ("point_coords", True, False),
    ],
)
def test_something_must_describe_the_object(column, are_regions, counts):
    columns = {"image": True, column: False}
    if counts:
        assert key_columns("f", columns, are_regions=are_regions) == ["image"]
    else:
        with pytest.raises(InputError, match=f"f has none of the columns .*bbox.*; its columns: 'image', '{column}'"):
            key_columns("f", columns, are_regions=are_regions)


def test_of_many_columns_the_first_are_shown():
    with pytest.raises(InputError, match=r"'c19' and 480 more$"):
        key_columns("f", {f"c{number}": True for number in range(500)}, are_regions=False)


def rows(count, mask_input=None):
    for prompt_id in range(count):
        named = {"key": "a", "is_image_id": False, "prompt_id": prompt_id}
        yield named | {"is_relative": False, "mask_input": mask_input}


@pytest.mark.parametrize(
    ("count", "mask_input", "sizes"),
    [(0, None, []), (5, None, [5]), (10, None, [5, 5]), (11, None, [5, 5, 1]), (5, b"1234", [2, 2, 1])],
)
def test_tables_have_so_many_rows_and_fewer_with_masks(monkeypatch, count, mask_input, sizes):
    monkeypatch.setattr(module, "TABLE_ROWS", 5)
    monkeypatch.setattr(module, "MASKS_AT_ONCE", 2)
    tables = list(row_tables(rows(count, mask_input)))
    assert [table.num_rows for table in tables] == sizes
    assert all(table.schema == KEYED_PROMPTS for table in tables)
    numbers = pa.concat_tables([KEYED_PROMPTS.empty_table(), *tables])["prompt_id"]
    assert numbers.to_pylist() == list(range(count))
