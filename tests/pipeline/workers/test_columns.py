from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.pipeline.workers.columns import (
    CROPS,
    EMBEDDINGS,
    IMAGES,
    SHARDS,
    PreparedImage,
    chunks_of,
    crop_column,
    crops_by_image,
    embedding_column,
    embeddings_by_image,
    images_table,
    num_crops,
    pack_prompts,
    result_table,
    shard_row,
    shards_of,
    unpack_prompts,
)
from sam_pipeline.storage.tables.delta import DataFile
from sam_pipeline.storage.tables.results import Shard
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA, PROMPT_TYPE
from tests.storage.image_files import noise
from tests.storage.runs import FLOAT_FIELDS, failed_row, row


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 100])
def test_chunks_hold_every_pending_id_once(chunk_rows):
    pending_ids = np.array([0, 1, 5, 6, 7, 100, 2**40])
    found = []
    for chunk in chunks_of(pending_ids, chunk_rows):
        (values,) = chunk.to_pylist()
        ids = np.frombuffer(values["image_ids"], np.int64)
        assert 0 < len(ids) <= chunk_rows
        found += ids.tolist()
    assert found == pending_ids.tolist()


def test_where_nothing_is_pending_there_are_no_chunks():
    assert list(chunks_of(np.array([], np.int64), 4)) == []


def test_crops_come_back_as_they_went_also_from_slices_and_chunks():
    generator = np.random.default_rng(0)
    images = [
        [generator.integers(0, 256, (3, 4, 3), dtype=np.uint8), generator.integers(0, 256, (1, 2, 3), dtype=np.uint8)],
        [],
        [generator.integers(0, 256, (5, 1, 3), dtype=np.uint8)],
    ]
    column = crop_column(images)
    assert column.type == CROPS
    table = pa.table({"crops": pa.chunked_array([column.slice(0, 1), column.slice(1)])})
    for first in range(3):
        back = crops_by_image(table.slice(first))
        assert num_crops(table.slice(first)) == sum(map(len, back))
        assert [len(crops) for crops in back] == [len(crops) for crops in images[first:]]
        for crops, expected in zip(back, images[first:], strict=True):
            for crop, original in zip(crops, expected, strict=True):
                np.testing.assert_array_equal(crop, original)


def test_crops_that_are_views_of_a_larger_image_are_packed_without_the_rest():
    image = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    table = pa.table({"crops": crop_column([[image[2:5, 3:7]]])})
    np.testing.assert_array_equal(crops_by_image(table)[0][0], image[2:5, 3:7])


def test_images_without_crops_make_a_column_too():
    for images in ([], [[]], [[], []]):
        column = crop_column(images)
        column.validate(full=True)
        assert crops_by_image(pa.table({"crops": column})) == images


def test_images_are_rows_whose_crops_share_one_buffer():
    crops = [noise(5, 7), noise(6, 2)]
    fine = PreparedImage(3, "a.jpg", 50, 70, "ok", None, '{"a": 1}', b"packed", crops)
    bad = PreparedImage(4, "b.jpg", None, None, "decode_error", "why", None, None, [])
    table = images_table([fine, bad, fine])
    table.validate(full=True)
    assert table.schema == IMAGES
    for found, image in zip(table.drop_columns("crops").to_pylist(), [fine, bad, fine], strict=True):
        assert found == {name: getattr(image, name) for name in found}
    first, nothing, third = crops_by_image(table)
    assert nothing == []
    for crop, expected in zip(first + third, crops * 2, strict=True):
        np.testing.assert_array_equal(crop, expected)
    addresses = [crop.__array_interface__["data"][0] for crop in first + third]
    assert np.diff(addresses).tolist() == [crop.nbytes for crop in (crops * 2)[:-1]]


def test_embeddings_come_back_as_they_went_without_a_copy():
    embeddings = np.arange(24, dtype=np.uint8).reshape(4, 6)
    column = embedding_column(embeddings, [1, 0, 3])
    assert column.type == EMBEDDINGS
    column.validate(full=True)
    table = pa.table({"image_embeddings": pa.chunked_array([column.slice(0, 1), column.slice(1)])})
    expected = [[bytes(embeddings[0])], [], [bytes(embedding) for embedding in embeddings[1:]]]
    for first in range(3):
        found = embeddings_by_image(table.slice(first))
        assert [[bytes(view) for view in views] for views in found] == expected[first:]
    ((view,), *_) = embeddings_by_image(table)
    assert np.shares_memory(np.frombuffer(view, np.uint8), embeddings)


def test_images_without_crops_have_no_embeddings():
    table = pa.table({"image_embeddings": embedding_column(np.empty((0, 6), np.uint8), [0, 0])})
    assert embeddings_by_image(table) == [[], []]


def test_results_are_rows_of_the_masks_table():
    rows = [row(0), failed_row(1), row(2, 0)]
    fields = [field for field in IMAGES if field.name != "crops"]
    embeddings = pa.Table.from_pylist(
        [{field.name: result.get(field.name) for field in fields} for result in rows], schema=pa.schema(fields)
    ).append_column("image_embeddings", pa.array([[b"x"], [], [b"y", b"z"]], EMBEDDINGS))
    error = {"role": "prompt", "prompt_id": 3, "error": "no area"}
    rows[2]["prompt_errors"] = [error]
    results = result_table(embeddings, [result["masks"] for result in rows], [[], [], [error]])
    assert results.schema == MASKS_SCHEMA
    results.validate(full=True)
    assert results.to_pylist() == [
        result | {"masks": [mask | FLOAT_FIELDS for mask in result["masks"]]} for result in rows
    ]


def test_prompts_come_back_as_they_went():
    nothing = dict.fromkeys(PROMPT_TYPE.names)
    prompts = [
        nothing | {"role": "prompt", "prompt_id": 3, "is_relative": False, "box_xyxy": [1.0, 2.0, 3.0, 4.5]},
        nothing | {"role": "region", "prompt_id": 0, "is_relative": True, "polygon": [[0.0, 0.5], [1.0, 0.0]]},
        nothing | {"role": "prompt", "prompt_id": 2**40, "is_relative": False, "mask_input": bytes(range(256))},
    ]
    assert unpack_prompts(pack_prompts(prompts)) == prompts
    assert pack_prompts([]) is None
    assert unpack_prompts(None) == []


def test_descriptors_of_shards_come_back_as_they_went():
    shards = [
        Shard(DataFile("a.parquet", 123, 2, 0, 2**40), np.array([0, 2**40]), Counter(ok=1, too_large=1), 7),
        Shard(DataFile("b.parquet", 1, 1, 5, 5), np.array([5]), Counter(ok=1), 0),
    ]
    rows = pa.concat_tables([shard_row(shard) for shard in shards])
    assert rows.schema == SHARDS
    for found, shard in zip(shards_of(rows), shards, strict=True):
        assert found.image_ids.tolist() == shard.image_ids.tolist()
        assert found.file == shard.file
        assert (found.num_by_status, found.num_masks) == (shard.num_by_status, shard.num_masks)
