import pyarrow as pa
import pytest

from sam_pipeline.pipeline.workers.blocks import as_block, images_of

IMAGES = pa.table(
    {
        "image_id": [3, 4, 5],
        "error": [None, "too large", None],
        "crops": pa.array([[b"ab", b"c"], [], [b"def"]], pa.list_(pa.large_binary())),
    }
)


def test_a_batch_is_one_row_and_comes_back_as_it_was():
    block = as_block(IMAGES)
    assert block.num_rows == 1
    assert images_of(block) == IMAGES


@pytest.mark.parametrize("images", [IMAGES.slice(1, 1), IMAGES.slice(2), pa.concat_tables([IMAGES, IMAGES])])
def test_parts_of_tables_and_tables_in_parts_come_back_as_they_were(images):
    assert images_of(as_block(images)) == images


def test_batches_that_ray_put_together_are_one_table():
    blocks = pa.concat_tables([as_block(IMAGES.slice(0, 2)), as_block(IMAGES.slice(2))])
    assert images_of(blocks) == IMAGES
    assert images_of(blocks.combine_chunks()) == IMAGES
    assert images_of(blocks.combine_chunks().slice(1)) == IMAGES.slice(2), "what Ray cuts off is left out"


def test_pixels_are_not_copied():
    def pixels(images):
        return images["crops"].chunk(0).values.buffers()[-1].address

    assert pixels(images_of(as_block(IMAGES))) == pixels(IMAGES)
