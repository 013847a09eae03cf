"""Upscaling of image tokens on a CPU: what `low_rank_image_side` computes between its matrix products.

Each number is read once, where torch would pass over all of them for each operation. Everything is float32. Image
tokens are columns, so that neighbours in memory are treated alike and LLVM makes vector instructions. Legend and
symbols: see `low_rank_image_side`.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from sam_pipeline.masks.decoder.numba_functions import gelu

Floats = NDArray[np.float32]

_STRIP = 128
"""Columns at once: what is computed of them stays in the first-level cache."""
_ZERO, _ONE = np.float32(0), np.float32(1)

_kernel = numba.njit(nogil=True, cache=True, fastmath={"contract"})


@_kernel
def upscale_once(
    fine: Floats,
    first_token: int,
    shared: Floats,
    rstd1: Floats,
    rstd2: Floats,
    bias: Floats,
    norm_weight: Floats,
    norm_bias: Floats,
    eps: np.float32,
) -> None:
    """The first transposed convolution from its products; layer norm and GELU.

    Args:
        fine: V3 W_up times the coefficients, four pixels of F channels a token, (4 * F, tokens). Out.
        first_token: where the tokens are among all.
        shared: Z3 W_up, (4 * F, K).
        rstd1: r1, (K,).
        rstd2: r2, (K,).
        bias: (4 * F,).
        norm_weight: (F,).
        norm_bias: (F,).
        eps: of the norm.
    """
    F, num_tokens = len(norm_weight), fine.shape[1]
    share = _ONE / np.float32(F)
    pixels = np.empty((F, _STRIP), np.float32)
    mean, scale = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    for first in range(0, num_tokens, _STRIP):
        last = min(first + _STRIP, num_tokens)
        of_all = slice(first_token + first, first_token + last)
        r1, r2 = rstd1[of_all], rstd2[of_all]
        for top in range(0, 4 * F, F):
            mean[:] = _ZERO
            for channel in range(F):
                row = top + channel
                own, common, constant = fine[row, first:last], shared[row, of_all], bias[row]
                pixel = pixels[channel]
                for k in range(len(r1)):
                    pixel[k] = r2[k] * (own[k] + r1[k] * common[k]) + constant
                    mean[k] += pixel[k]
            mean *= share
            scale[:] = _ZERO
            for channel in range(F):
                pixel = pixels[channel]
                for k in range(len(r1)):
                    pixel[k] -= mean[k]
                    scale[k] += pixel[k] * pixel[k]
            for k in range(len(r1)):
                scale[k] = _rstd(scale[k] * share, eps)
            for channel in range(F):
                pixel, out = pixels[channel], fine[top + channel, first:last]
                weight, constant = norm_weight[channel], norm_bias[channel]
                for k in range(len(r1)):
                    out[k] = gelu(pixel[k] * (scale[k] * weight) + constant)


@_kernel
def mask_logits(
    finest: Floats, first_token: int, quarter: int, bias: Floats, hyper_in: Floats, w: int, low_res_masks: Floats
) -> None:
    """GELU of the second transposed convolution, and its products with the hypernetworks.

    Args:
        finest: four pixels of G channels for one quarter of each token, (4 * G, tokens).
        first_token: where the tokens are among all.
        quarter: which of the token's, row by row.
        bias: (4 * G,).
        hyper_in: (M, G), G even.
        w: tokens in a row.
        low_res_masks: out, logits, (M, 4 * rows, 4 * w).
    """
    (M, G), num_tokens = hyper_in.shape, finest.shape[1]
    logits, values = np.empty((M, _STRIP), np.float32), np.empty((2, _STRIP), np.float32)
    value0, value1 = values[0], values[1]
    for first in range(0, num_tokens, _STRIP):
        last = min(first + _STRIP, num_tokens)
        for corner in range(4):
            logits[:] = _ZERO
            for channel in range(0, G, 2):
                row = corner * G + channel
                some0, some1 = finest[row, first:last], finest[row + 1, first:last]
                bias0, bias1 = bias[row], bias[row + 1]
                for k in range(len(some0)):
                    value0[k] = gelu(some0[k] + bias0)
                    value1[k] = gelu(some1[k] + bias1)
                for m in range(M):
                    factor0, factor1, sums = hyper_in[m, channel], hyper_in[m, channel + 1], logits[m]
                    for k in range(len(some0)):
                        sums[k] += factor0 * value0[k] + factor1 * value1[k]
            y, x = 2 * (quarter // 2) + corner // 2, 2 * (quarter % 2) + corner % 2
            start = first
            while start < last:  # a row of tokens, or the part of it that is here
                row, column = (first_token + start) // w, (first_token + start) % w
                end = min(start + w - column, last)
                for m in range(M):
                    out = low_res_masks[m, row * 4 + y]
                    for k in range(start, end):
                        out[(column + k - start) * 4 + x] = logits[m, k - first]
                start = end


@_kernel
def _rstd(variance: np.float32, eps: np.float32) -> np.float32:
    """Reciprocal standard deviation."""
    rstd: np.float32 = _ONE / np.sqrt(variance + eps)
    return rstd
