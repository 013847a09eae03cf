"""The kernels by Triton's interpreter, against the plain blocks."""

import os

import pytest
import torch

# Before anything imports Triton: kernels then run on the CPU, interpreted. Where there is a GPU, tests/gpu runs them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from benchmarks.measured.encoder_traffic import beside_products, trace_encoder
from sam_pipeline.model.networks import triton_blocks
from sam_pipeline.model.networks.image_encoder import Block, are_own, dtype_of_triton_blocks
from sam_pipeline.model.networks.triton_blocks import run_blocks
from tests.launches import watch_launches

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU tests/gpu runs the kernels, compiled")


def make_blocks(dim, num_heads, window_sizes, tokens):
    generator = torch.Generator().manual_seed(dim)
    blocks = [Block(dim, num_heads, 2 * dim, size, tokens).requires_grad_(False) for size in window_sizes]
    for block in blocks:
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return blocks


@interpreted
@torch.inference_mode()
@pytest.mark.parametrize(
    ("dim", "num_heads", "window_sizes", "tokens", "batch_size"),
    [(24, 2, (4, 0), 6, 2), (20, 1, (3, 0, 5), 7, 1), (32, 4, (8,), 8, 1), (16, 2, (0,), 3, 3), (8, 1, (14,), 5, 1)],
)
def test_they_give_what_the_plain_blocks_give(dim, num_heads, window_sizes, tokens, batch_size):
    blocks = make_blocks(dim, num_heads, window_sizes, tokens)
    x = torch.randn(batch_size, tokens, tokens, dim, generator=torch.Generator().manual_seed(tokens))
    expected, before = x, x.clone()
    for block in blocks:
        expected = block(expected)
    ours = run_blocks(x, blocks, torch.float32)
    assert expected.std() > 1, "degenerate numbers compare nothing"
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(x, before), "the input is left as it was"


@interpreted
@torch.inference_mode()
def test_in_half_precision_they_are_as_close_as_the_plain_blocks_under_autocast():
    # float16: the interpreter has no products of bfloat16.
    blocks = make_blocks(32, 2, (4, 0), 6)
    x = torch.randn(1, 6, 6, 32, generator=torch.Generator().manual_seed(0))
    exact, rounded = x, x
    for block in blocks:
        exact = block(exact)
        with torch.autocast("cpu", dtype=torch.float16):
            rounded = block(rounded)
    ours = run_blocks(x, blocks, torch.float16)
    assert ours.dtype == torch.float32
    error, plain_error = ((y - exact).square().mean().sqrt() for y in (ours, rounded))
    assert 0 < error < 1.5 * plain_error


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # by NumPy, which stands for the GPU: inf - inf
@torch.inference_mode()
def test_what_is_not_finite_becomes_nan_and_spoils_no_other_window():
    (block,) = make_blocks(16, 2, (3,), 6)
    x = torch.randn(1, 6, 6, 16, generator=torch.Generator().manual_seed(0))
    clean = run_blocks(x, [block], torch.float32)
    x[0, 0, 0, 0], x[0, 5, 5, 0] = torch.nan, torch.inf
    spoilt = run_blocks(x, [block], torch.float32)
    assert spoilt[0, 0, 0].isnan().all()
    assert spoilt[0, 5, 5].isnan().all()
    torch.testing.assert_close(spoilt[0, :3, 3:], clean[0, :3, 3:])


@interpreted
@torch.inference_mode()
def test_kernels_are_launched_where_the_tokens_are(monkeypatch):
    launched = watch_launches(monkeypatch, triton_blocks, "add_norm", "split_heads", "merge_heads")
    run_blocks(torch.zeros(1, 3, 3, 8), make_blocks(8, 1, (0,), 3), torch.float32)
    assert launched == [torch.device("cpu")] * 4


def test_a_cpu_takes_the_plain_blocks():
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert dtype_of_triton_blocks(torch.zeros(1), torch.nn.ModuleList()) is None


def test_adapters_and_hooks_take_the_plain_blocks():
    blocks = torch.nn.ModuleList(make_blocks(8, 1, (2, 0), 3))
    assert are_own(blocks)
    hook = blocks[1].attn.register_forward_hook(lambda *_: None)
    assert not are_own(blocks)
    hook.remove()
    assert are_own(blocks)
    blocks[0].mlp.act = torch.nn.ReLU()
    assert not are_own(blocks)


def test_the_largest_encoder_moves_less_than_half_of_what_it_moved():
    rows = trace_encoder("vit_h", batch_size=16)
    assert beside_products(rows) < 11  # GB an image; 27.5 by the plain blocks
    assert sum(row.launches for row in rows) < 45  # an image; 225 by the plain blocks
