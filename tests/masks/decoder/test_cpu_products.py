import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError

from sam_pipeline.masks.decoder.cpu.products import LANES, ROWS, add_product, multiply

SEEDS = st.integers(0, 2**32)


def part_of(whole, shape, offset):
    """A view (shape) of a larger matrix, whose rows are not neighbours."""
    return whole[offset : offset + shape[0], offset : offset + shape[1]]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 130), st.integers(1, 7), st.booleans(), st.integers(0, 5), SEEDS)
def test_products_are_those_of_numpy_and_nothing_else_changes(row_blocks, depth, vectors, adds, offset, seed):
    random = np.random.default_rng(seed)
    M, S = row_blocks * ROWS, vectors * LANES
    a, b, whole = (
        random.standard_normal((rows + 9, columns + 9), np.float32)
        for rows, columns in ((M, depth), (depth, S), (M, S))
    )
    a, b, out = part_of(a, (M, depth), offset), part_of(b, (depth, S), offset), part_of(whole, (M, S), offset)
    before = whole.copy()
    expected = a.astype(np.float64) @ b
    if adds:
        expected += out
    (add_product if adds else multiply)(a, b, out)
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=2e-7 * depth)
    out[:] = part_of(before, out.shape, offset)
    np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_in_its_row_and_column(value):
    a, b = np.ones((ROWS, 9), np.float32), np.ones((9, 3 * LANES), np.float32)
    out = np.empty((ROWS, 3 * LANES), np.float32)
    a[1, 4] = value
    multiply(a, b, out)
    np.testing.assert_array_equal(out[1], np.full(3 * LANES, value))
    assert (np.delete(out, 1, axis=0) == 9).all()
    a[1, 4], b[2, LANES] = 1, value
    multiply(a, b, out)
    np.testing.assert_array_equal(out[:, LANES], np.full(ROWS, value))
    assert (np.delete(out, LANES, axis=1) == 9).all()


def test_other_matrices_are_refused():
    a, b, out = np.ones((ROWS, 3), np.float32), np.ones((3, LANES), np.float32), np.ones((ROWS, LANES), np.float32)
    for wrong in (a.astype(np.float64), np.asfortranarray(a), a[None]):
        with pytest.raises(TypingError, match="float32 matrices"):
            multiply(wrong, b, out)


# A whole decoder, whose heads have more channels than a vector has numbers or fewer.
DECODE = """
import torch
from sam_pipeline.masks.decoder.cpu.products import LANES, ROWS, multiply
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from tests.small_sams import make_tiny_sam

sam = make_tiny_sam()
embedding = torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(1))
prompts = torch.tensor([[[20.0, 30]], [[90, 70]]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.int64)
with torch.inference_mode():
    expected, decoded = (
        decoder.decode(decoder.share(embedding), prompts, torch.isfinite, 8)
        for decoder in (PlainDecoder(sam), SharedDecoder(sam))
    )
torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-5, rtol=1e-5)
torch.testing.assert_close(decoded.low_res_masks, expected.low_res_masks, atol=1e-4, rtol=1e-4)
code = "".join(multiply.inspect_asm().values())
assert "fmaf" not in code, "a function is called for each number"
print(LANES, ROWS)
"""


@pytest.mark.parametrize(
    ("processor", "features", "block"),
    [
        ("generic", "", "4 4"),
        ("haswell", "+avx,+avx2,+fma", "8 4"),
        # Each takes a quarter of a minute and has the block of one above.
        pytest.param("ivybridge", "+avx", "4 4", marks=pytest.mark.soak),
        pytest.param("x86-64", "+avx,+avx2", "8 4", marks=pytest.mark.soak),
    ],
)
def test_processors_without_the_vectors_of_this_one(processor, features, block, tmp_path):
    environment = os.environ | {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    printed = subprocess.run([sys.executable, "-c", DECODE], env=environment, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.strip() == block
