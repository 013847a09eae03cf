"""Layers that the networks share."""

import pytest
import torch

from sam_pipeline.model.networks.layers import LayerNorm2d


@pytest.fixture
def images():
    """Channels whose squares float16 does not hold."""
    return 1000 * torch.randn(2, 16, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_types_are_those_of_their_numbers(images, dtype):
    norm = LayerNorm2d(16).requires_grad_(False)
    rounded = images.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(norm(rounded), norm(rounded.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_network_of_one_type_stays_in_it(images, dtype):
    norm = LayerNorm2d(16).to(dtype).requires_grad_(False)
    normed = norm(images.to(dtype))
    assert normed.dtype == dtype
    torch.testing.assert_close(normed.float().std(1, correction=0), torch.ones(2, 3, 4), rtol=0.01, atol=0.01)
