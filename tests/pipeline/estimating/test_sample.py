"""Which images of a run are its sample."""

import numpy as np
import pytest

from sam_pipeline.pipeline.estimating.sample import random_chunks
from sam_pipeline.pipeline.workers.columns import chunks_of


@pytest.mark.parametrize(("num_ids", "stretch", "rows"), [(1, 1, 4), (10, 1, 1), (100, 1, 4), (103, 16, 64), (7, 9, 9)])
def test_every_image_is_drawn_once_and_ascends_in_its_chunk(num_ids, stretch, rows):
    ids = np.arange(num_ids) * 3
    chosen = random_chunks(ids, stretch, rows)
    assert sorted(chosen) == list(ids)
    for chunk in chunks_of(chosen, rows):
        (data,) = chunk["image_ids"].to_pylist()
        assert (np.diff(np.frombuffer(data, np.int64)) > 0).all()
    assert (random_chunks(ids, stretch, rows) == chosen).all()


def test_the_first_images_drawn_are_from_everywhere():
    first = random_chunks(np.arange(100_000), 1, 4)[:100]
    assert np.histogram(first, bins=4, range=(0, 100_000))[0].min() > 10


def test_neighbours_stay_together():
    chosen = random_chunks(np.arange(9984), 16, 64).reshape(-1, 64)[:50]
    assert all((np.diff(stretch) == 1).all() for chunk in chosen for stretch in chunk.reshape(4, 16))
    assert any((np.diff(chunk) > 1).any() for chunk in chosen)


def test_a_sample_of_a_large_run_is_bounded():
    chosen = random_chunks(np.arange(1_000_000), 1, 4)
    assert len(chosen) == len(set(chosen)) == 8000
