import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.prompts import parquet_prompts
from sam_pipeline.storage.prompts.prompt_files import read_regions
from tests.storage.prompts.reading import read_rows

BOX = [1.0, 2.0, 3.0, 4.0]
LOGITS = np.random.default_rng(0).normal(size=(3, 256, 256)).astype("<f4")


@pytest.fixture
def read(tmp_path):
    def read(columns, read=None, row_group_size=None, **options):
        path = tmp_path / "prompts.pq"
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
        return read_rows(path, **({} if read is None else {"read": read}), **options)

    return read


@pytest.mark.parametrize(
    ("keys", "texts"),
    [
        (pa.array([7, None]), ["7", None]),
        (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
        (pa.array([139.0, None]), ["139", None]),
        (pa.array([139.0, 1.5], pa.float32()), ["139", None]),
        (pa.array(["é", None], pa.large_string()), ["é", None]),
        (pa.array(["a", ""], pa.string_view()), ["a", ""]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    ],
)
@pytest.mark.parametrize("point_coords", [None, [[5.0, 6.0]]], ids=["boxes", "row by row"])
def test_keys_of_every_type_become_text(read, keys, texts, point_coords):
    rows = read({"image_id": keys, "bbox": [BOX] * 2, "point_coords": pa.array([point_coords] * 2)})
    assert [row["key"] for row in rows] == texts


def test_pictures_beside_the_prompts_are_passed_over(read):
    pictures = pa.array([{"bytes": b"png", "path": "no"}])
    assert read({"image": pictures, "file_name": ["a.jpg"], "bbox": [BOX]})[0]["key"] == "a.jpg"
    with pytest.raises(InputError, match=r"names the image, .*its columns: 'image', 'bbox'"):
        read({"image": pictures, "bbox": [BOX]})


def test_right_and_wrong_rows_keep_their_order_through_all_batches(read, monkeypatch):
    monkeypatch.setattr(parquet_prompts, "TABLE_ROWS", 7)
    generator = np.random.default_rng(0)
    boxes = [[float(number), 0.0, 1.0, 1.0][: 4 - generator.integers(2)] for number in range(50)]
    points = [[[float(number), 2.0]] if generator.random() < 0.2 else None for number in range(50)]
    rows = read({"key": np.arange(50), "bbox": boxes, "point_coords": points}, row_group_size=20)
    assert [row["prompt_id"] for row in rows] == list(range(50))
    assert [row["key"] for row in rows] == [str(number) for number in range(50)]
    for row, box, point in zip(rows, boxes, points, strict=True):
        assert (row["error"] is None) == (len(box) == 4)
        assert row["box_xyxy"] == ([box[0], 0, box[0] + 1, 1] if len(box) == 4 else None)
        assert row["point_coords"] == (point if len(box) == 4 else None)
    assert 5 < sum(row["error"] is None for row in rows) < 45


@pytest.mark.parametrize(
    "masks",
    [
        pa.array(LOGITS.tolist()),
        pa.array(LOGITS.tolist(), pa.large_list(pa.list_(pa.float32(), 256))),
        pa.array(LOGITS[:, None].tolist(), pa.list_(pa.list_(pa.list_(pa.float32())))),
        pa.array(LOGITS.reshape(3, -1).tolist(), pa.list_(pa.float32())),
        pa.FixedSizeListArray.from_arrays(LOGITS.reshape(-1), 65_536),
        pa.array([mask.tobytes() for mask in LOGITS]),
        pa.array([mask.tobytes() for mask in LOGITS], pa.large_binary()),
        pa.array([mask.tobytes() for mask in LOGITS], pa.binary(262_144)),
    ],
    ids=lambda masks: str(masks.type),
)
def test_masks_of_every_type(read, masks, monkeypatch):
    monkeypatch.setattr(parquet_prompts, "MASKS_AT_ONCE", 2)
    rows = read({"key": ["a", "b", "c"], "mask_input": masks})
    assert [row["mask_input"] for row in rows] == [mask.tobytes() for mask in LOGITS]


@pytest.mark.parametrize(
    "mask",
    [
        [[1.0] * 256] * 255 + [[1.0]],
        [[1.0] * 256] * 255 + [None],
        [[1.0] * 256] * 255 + [[None] * 256],
        [["1"] * 256] * 256,
        [[]],
        [[1.0] * 512] * 128,
    ],
    ids=["ragged", "a line less", "nulls", "text", "empty", "other shape"],
)
def test_a_wrong_mask_is_a_row_with_an_error(read, mask):
    first, second = read({"key": ["a", "b"], "mask_input": [mask, None], "bbox": [BOX, BOX]})
    assert first["error"].startswith("mask_input ")
    assert (first["mask_input"], first["box_xyxy"]) == (None, None)
    assert (second["error"], second["box_xyxy"]) == (None, [1, 2, 4, 6])


def test_regions_are_read_without_what_belongs_to_prompts(read):
    polygon = [[0.0, 0.0], [5.0, 0.0], [5.0, 5.0]]
    columns = {"key": ["a", "b", "c"], "polygon": [polygon, None, None], "bbox": [BOX, BOX, BOX[:3]]}
    rows = read({**columns, "mask_input": [b"wrong"] * 3}, read=read_regions)
    assert [row["polygon"] for row in rows] == [polygon, None, None]
    assert [row["box_xyxy"] for row in rows] == [None, [1, 2, 4, 6], None]
    assert [row["error"] for row in rows] == [None, None, "bbox must be 4 numbers, has 3"]


def test_keys_that_are_not_text_are_an_input_error(read):
    keys = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], "<i4")), pa.py_buffer(b"\xff")])
    with pytest.raises(InputError, match=r"cannot read .*UTF8"):
        read({"key": keys, "bbox": [BOX]})


def test_without_rows_there_are_no_prompts(read):
    with pytest.raises(InputError, match="no prompts in"):
        read({"key": pa.array([], pa.string()), "bbox": pa.array([], pa.list_(pa.float64()))})


@pytest.mark.parametrize("point_coords", [None, [[5.0, 6.0]]], ids=["boxes", "row by row"])
def test_each_row_names_its_image_by_the_first_value_that_can(read, point_coords):
    columns = {
        "image_id": pa.array([1, 2, 3, None, None]),
        "url": pa.array([None] * 5, pa.string()),
        "file_name": ["a.jpg", None, None, None, "e.jpg"],
        "key": pa.array([1.0, 2.0, 2.5, None, 5.0]),
    }
    rows = read(columns | {"bbox": [BOX] * 5, "point_coords": pa.array([point_coords] * 5)}, row_group_size=2)
    named = [(row["key"], row["is_image_id"]) for row in rows]
    assert named == [("a.jpg", False), ("2", False), ("3", True), (None, False), ("e.jpg", False)]


def test_columns_behind_one_that_names_every_image_are_not_read(read, monkeypatch):
    asked = []
    real = parquet_prompts.column_batches

    def noted(file, lengths, *arguments):
        asked.append(list(lengths))
        return real(file, lengths, *arguments)

    monkeypatch.setattr(parquet_prompts, "column_batches", noted)
    columns = {"file_name": ["a.jpg", "b.jpg"], "image": ["long text"] * 2, "image_id": [1, 2], "bbox": [BOX] * 2}
    assert [row["key"] for row in read(columns)] == ["a.jpg", "b.jpg"]
    assert asked == [["file_name", "bbox"]]
