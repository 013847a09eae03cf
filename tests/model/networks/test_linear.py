import platform

import pytest
import torch
import torch.nn.functional as F

from sam_pipeline.model.networks import linear as linear_module
from sam_pipeline.model.networks.linear import Linear, convolution, linear


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (2, 3, 4, 7), (300, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_is_a_linear_map(shape, with_bias):
    x, weight, bias = random(*shape), random(11, 7, seed=1), random(11, seed=2) if with_bias else None
    with torch.no_grad():
        mapped = linear(x, weight, bias)
    assert mapped.shape == (*shape[:-1], 11)
    assert torch.allclose(mapped, F.linear(x, weight, bias), atol=1e-5)


@pytest.mark.parametrize(("activation", "function"), [("gelu", F.gelu), ("relu", F.relu)])
@pytest.mark.parametrize("without", [(), ("_ONEDNN_LINEAR", "_ONEDNN_CONVOLUTION")])
def test_an_activation_follows(activation, function, without, monkeypatch):
    for name in without:
        monkeypatch.setattr(linear_module, name, None)
    x, weight, bias = random(40, 7), random(11, 7, seed=1), random(11, seed=2)
    with torch.no_grad():
        assert torch.allclose(linear(x, weight, bias, activation), function(F.linear(x, weight, bias)), atol=1e-5)
        image, kernel = random(1, 7, 9, 10), random(11, 7, 3, 3, seed=1)
        convolved = convolution(image, kernel, bias, padding=1, activation=activation)
        assert torch.allclose(convolved, function(F.conv2d(image, kernel, bias, padding=1)), atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 6), (2, 6)])
def test_is_a_convolution_that_keeps_the_layout(layout, stride, groups):
    image, bias = random(2, 6, 11, 8).contiguous(memory_format=layout), random(12, seed=2)
    kernel = random(12, 6 // groups, 3, 3, seed=1)
    with torch.no_grad():
        convolved = convolution(image, kernel, bias, stride, 1, groups)
    assert torch.allclose(convolved, F.conv2d(image, kernel, bias, stride, 1, groups=groups), atol=1e-4)
    assert convolved.is_contiguous(memory_format=layout)


def test_takes_transposed_and_strided_arguments():
    x, weight = random(7, 40).t(), random(7, 22).t()[::2]
    with torch.no_grad():
        assert torch.allclose(linear(x, weight), F.linear(x, weight), atol=1e-5)


def test_the_faster_product_is_there_on_x86():
    """Elsewhere torch may come without; here its absence would cost half the speed, silently."""
    if platform.machine() == "x86_64" and torch.backends.mkldnn.is_available():
        assert linear_module._ONEDNN_LINEAR is not None


def test_without_the_faster_product_the_map_is_the_same(monkeypatch):
    monkeypatch.setattr(linear_module, "_ONEDNN_LINEAR", None)
    x, weight = random(40, 7), random(11, 7, seed=1)
    with torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_as_ever(dtype):
    x, weight = random(40, 7, dtype=dtype), random(11, 7, dtype=dtype, seed=1)
    with torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_autocast_casts():
    x, weight = random(40, 7), random(11, 7, seed=1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear(x, weight)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), x @ weight.t(), atol=0.1)


def test_gradients_flow_to_everything():
    layer = Linear(7, 11)
    x = random(2, 20, 7).requires_grad_()
    arguments = (x, layer.weight, layer.bias)
    pull = random(2, 20, 11, seed=1)
    ours = torch.autograd.grad((layer(x) * pull).sum(), arguments)
    plain = torch.autograd.grad((F.linear(*arguments) * pull).sum(), arguments)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, plain, strict=True))
