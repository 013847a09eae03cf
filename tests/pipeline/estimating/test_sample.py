"""Which images of a run are its sample."""

import time

import numpy as np
import pytest

from sam_pipeline.pipeline.estimating.sample import Progress, num_places, random_chunks, with_last_shards
from sam_pipeline.pipeline.monitor import Counts, MonitorState, StageTimes
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


def test_a_billion_images_are_drawn_from_in_no_time():
    class Billion:
        """Ids without their memory."""

        def __len__(self):
            return 10**9

        def __getitem__(self, some):
            return np.arange(some.start, some.stop)

    start = time.process_time()
    assert len(random_chunks(Billion(), 1, 4)) == 8000
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("num_images", "stretch", "places"), [(30, 1, 30), (30, 256, 3), (600, 256, 5), (2, 256, 2)])
def test_three_tasks_read_from_three_places_until_they_are_through(num_images, stretch, places):
    assert num_places(num_images, stretch, read_tasks=3) == places


def test_shards_that_were_written_after_the_last_image_are_counted():
    last = Progress(9.0, Counts(), {"decode": StageTimes(3, 6.0)})
    state = MonitorState(stage_times={"decode": StageTimes(3, 6.0), "write": StageTimes(3, 0.1)})
    (first, end) = with_last_shards([last, last], state)
    assert first is last
    assert (end.at_s, end.stage_times["write"].num_images) == (9.0, 3)
    assert with_last_shards([], state) == []
