import pytest
import torch

from sam_pipeline.model.networks.windows import window_partition, window_unpartition


@pytest.mark.parametrize(("hw", "windows"), [((64, 64), 25), ((28, 14), 2), ((15, 1), 2)])
def test_round_trip(hw, windows):
    x = torch.randn(2, *hw, 3, generator=torch.Generator().manual_seed(0))
    cut = window_partition(x, 14)
    assert cut.shape == (2 * windows, 14, 14, 3)
    assert torch.equal(window_unpartition(cut, hw), x)


def test_padding_is_at_the_bottom_and_right():
    cut = window_partition(torch.ones(1, 3, 4, 1), 2)
    assert cut[..., 0].tolist() == [[[1, 1], [1, 1]], [[1, 1], [1, 1]], [[1, 1], [0, 0]], [[1, 1], [0, 0]]]


def test_padding_may_be_given():
    x = torch.arange(6.0).view(1, 3, 1, 2)
    cut = window_partition(x, 2, padding=torch.tensor([8.0, 9.0]))
    assert cut.tolist() == [
        [[[0, 1], [8, 9]], [[2, 3], [8, 9]]],
        [[[4, 5], [8, 9]], [[8, 9], [8, 9]]],
    ]
    assert x.flatten().tolist() == [0, 1, 2, 3, 4, 5]
