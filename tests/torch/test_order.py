"""The order of an epoch: every image once over all shares, whatever the row groups and however many shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_pipeline.errors import ConfigError
from sam_pipeline.torch import order
from sam_pipeline.torch.order import Share, epoch_order, rank_share

GROUPS = st.lists(st.integers(1, 9), max_size=12)


def groups_of(sizes):
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), np.full(len(sizes), order.HELD_BYTES // 3)


def orders(sizes, num_shares, **options):
    return [epoch_order(*groups_of(sizes), Share(number, num_shares), **options) for number in range(num_shares)]


@given(GROUPS, st.integers(1, 7), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_every_image_is_in_one_share(sizes, num_shares, shuffle, seed, epoch):
    found = orders(sizes, num_shares, shuffle=shuffle, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(found).tolist()) == list(range(sum(sizes)))
    lengths = [len(each) for each in found]
    assert max(lengths) - min(lengths) <= 1


@given(GROUPS, st.integers(1, 7))
def test_an_order_that_is_not_shuffled_is_that_of_the_table(sizes, num_shares):
    found = orders(sizes, num_shares, shuffle=False)
    assert np.concatenate(found).tolist() == list(range(sum(sizes)))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 7))
def test_row_groups_are_read_once_by_a_reader_that_holds_three(sizes, num_shares):
    group_of, _ = groups_of(sizes)
    num_reads = 0
    for mine in orders(sizes, num_shares, shuffle=True):
        held = []
        for group in group_of[mine].tolist():
            if group not in held:
                num_reads += 1
                held = [*held, group][-3:]
    assert num_reads <= len(sizes) + num_shares - 1, "but for those that two shares share"


def test_epochs_and_seeds_have_orders_of_their_own():
    sizes = [40] * 30
    drawn = [
        tuple(orders(sizes, 1, shuffle=True, seed=seed, epoch=epoch)[0].tolist())
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len(set(drawn)) == 4
    assert drawn[0] == tuple(orders(sizes, 1, shuffle=True)[0].tolist())


def test_images_of_several_groups_are_mixed():
    (mine,) = orders([100] * 30, 1, shuffle=True)
    group_of, _ = groups_of([100] * 30)
    assert {len(set(group_of[mine[first : first + 300]].tolist())) for first in range(0, 3000, 300)} == {3}
    first_batches = [len(set(group_of[mine[first : first + 16]].tolist())) for first in range(0, 3000, 300)]
    assert min(first_batches) >= 2


def test_nothing_is_in_no_order():
    for shuffle in (False, True):
        assert epoch_order(*groups_of([]), Share(0, 2), shuffle=shuffle).tolist() == []


@given(st.integers(1, 5), st.integers(1, 5))
def test_parts_of_parts_are_all_parts(world_size, num_workers):
    shares = {
        Share(rank, world_size).part(worker, num_workers) for rank in range(world_size) for worker in range(num_workers)
    }
    assert shares == {Share(number, world_size * num_workers) for number in range(world_size * num_workers)}


def test_a_rank_is_given_or_that_of_the_environment(monkeypatch):
    assert rank_share(None, None) == Share(0, 1)
    assert rank_share(2, 3) == Share(2, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rank_share(None, None) == Share(1, 4)
    assert rank_share(0, 1) == Share(0, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4"}, r"RANK must be in \[0, WORLD_SIZE\), got 4 and 4"),
        ({"RANK": "1"}, "got 1 and 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "got -1 and 2"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "must be whole numbers, got 'x' and '2'"),
        ({"WORLD_SIZE": ""}, "must be whole numbers, got '0' and ''"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        rank_share(None, None)


@pytest.mark.parametrize(("rank", "world_size"), [(1, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_cannot_be_is_refused(rank, world_size):
    with pytest.raises(ConfigError, match=r"rank must be in \[0, world_size\), and both be given"):
        rank_share(rank, world_size)
