import numba
import numpy as np
import pytest
import torch

from sam_pipeline.masks.decoder.cpu.functions import exp2, gelu


@numba.vectorize(["float32(float32)"])
def exp2_of(x):
    return exp2(x)


@numba.vectorize(["float32(float32)"])
def gelu_of(x):
    return gelu(x)


def test_exp2_is_within_its_promise():
    x = np.linspace(-125.9, 127, 1_000_001, dtype=np.float32)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(exp2_of(x) - exact) / exact).max() < 2e-7
    assert exp2_of(np.arange(-126, 128, dtype=np.float32)).tolist() == [2.0**k for k in range(-126, 128)]
    assert 0 < exp2_of(np.float32(-1e30)) <= 2.0**-126


def test_gelu_is_within_its_promise():
    x = np.concatenate([np.linspace(-30, 30, 1_000_001), np.logspace(2, 30, 100), -np.logspace(2, 30, 100)])
    x = x.astype(np.float32)
    exact = torch.nn.functional.gelu(torch.from_numpy(x.astype(np.float64))).numpy()
    assert (np.abs(gelu_of(x) - exact) / np.maximum(1, np.abs(exact))).max() < 3e-7


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of NumPy, for any function of NaN
@pytest.mark.parametrize("function", [exp2_of, gelu_of])
def test_nan_stays_nan(function):
    # Of any bits: products and conversions keep those of their operands.
    bits = np.random.default_rng(0).integers(1, 2**23, 1000, np.uint32)
    bits = np.concatenate([bits, 1 << np.arange(23, dtype=np.uint32)]) | np.uint32(0x7F800000)
    numbers = np.concatenate([bits, bits | np.uint32(0x80000000)]).view(np.float32)
    assert np.isnan(function(numbers)).all()
