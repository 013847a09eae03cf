"""Upscaling of image tokens on a CPU, a strip of image tokens at a time: from coefficients to mask logits.

Everything is float32. Image tokens are columns, so that neighbours in memory are treated alike and LLVM makes vector
instructions. Symbols: see `attention`.

Legend: C channels, F = C / 4, G = C / 8, R rows of coefficients a layer, S image tokens a strip, M masks a prompt, w
columns of the image embedding.
"""

from __future__ import annotations

import numpy as np

from sam_pipeline.masks.decoder.cpu.attention import STRIP, rstd
from sam_pipeline.masks.decoder.cpu.compiling import kernel
from sam_pipeline.masks.decoder.cpu.functions import gelu
from sam_pipeline.masks.decoder.cpu.products import Floats, multiply

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def upscale(
    vectors: Floats,
    coefficients: Floats,
    rstd1: Floats,
    rstd2: Floats,
    shared: Floats,
    bias: Floats,
    norm_weight: Floats,
    norm_bias: Floats,
    eps: np.float32,
    up2: Floats,
    up2_bias: Floats,
    hyper_in: Floats,
    w: int,
    low_res_masks: Floats,
) -> None:
    """Mask logits of one prompt.

    Each image token becomes 2 x 2 pixels of F channels, and each of those 2 x 2 pixels of G channels; pixels are in the
    order of rows, then columns.

    Args:
        vectors: (V3 W_up)^T, (4 * F, 2 * R). The mean over the channels of each pixel is zero, here and in `shared` and
            `bias`.
        coefficients: (strips, 2 * R, S).
        rstd1: r1, (strips, S).
        rstd2: r2, (strips, S).
        shared: (Z3 W_up)^T, (strips, 4 * F, S).
        bias: (4 * F,).
        norm_weight: (F,).
        norm_bias: (F,).
        eps: of the norm.
        up2: the second transposed convolution, (4 * G, F).
        up2_bias: (4 * G,).
        hyper_in: outputs of the hypernetworks, (M, G), G even.
        w: image tokens in a row.
        low_res_masks: out, logits, (M, 4 * rows, 4 * w).
    """
    F, num_tokens = len(norm_weight), low_res_masks.shape[1] // 4 * w
    fine, finest = np.empty((4 * F, STRIP), np.float32), np.empty((len(up2), STRIP), np.float32)
    logits = np.empty((4, len(hyper_in), STRIP), np.float32)
    for strip in range(-(-num_tokens // STRIP)):
        multiply(vectors, coefficients[strip], fine)
        _finish_first(fine, shared[strip], rstd1[strip], rstd2[strip], bias, norm_weight, norm_bias, eps)
        first = strip * STRIP
        last = min(first + STRIP, num_tokens)
        for pixel in range(4):
            multiply(up2, fine[pixel * F : (pixel + 1) * F], finest)
            _finish_second(finest, up2_bias, hyper_in, logits)
            _store(logits, first, last, pixel, w, low_res_masks)


@kernel
def _finish_first(
    fine: Floats,
    shared: Floats,
    rstd1: Floats,
    rstd2: Floats,
    bias: Floats,
    norm_weight: Floats,
    norm_bias: Floats,
    eps: np.float32,
) -> None:
    """What follows the product in the first transposed convolution, then norm and GELU. In place, (4 * F, S)."""
    F = len(norm_weight)
    share = _ONE / np.float32(F)
    scale = np.empty(STRIP, np.float32)
    for top in range(0, 4 * F, F):
        scale[:] = _ZERO
        for row in range(top, top + F):
            values, common, constant = fine[row], shared[row], bias[row]
            for k in range(STRIP):
                values[k] = rstd2[k] * (values[k] + rstd1[k] * common[k]) + constant
                scale[k] += values[k] * values[k]
        for k in range(STRIP):
            scale[k] = rstd(scale[k] * share, eps)
        for channel in range(F):
            values, weight, constant = fine[top + channel], norm_weight[channel], norm_bias[channel]
            for k in range(STRIP):
                values[k] = gelu(values[k] * (scale[k] * weight) + constant)


@kernel
def _finish_second(finest: Floats, bias: Floats, hyper_in: Floats, logits: Floats) -> None:
    """GELU of the second transposed convolution, and its products with the hypernetworks.

    Args:
        finest: (4 * G, S).
        bias: (4 * G,).
        hyper_in: (M, G), G even.
        logits: out, of four pixels, (4, M, S).
    """
    M, G = hyper_in.shape
    two = np.empty((2, STRIP), np.float32)
    value0, value1 = two[0], two[1]
    logits[:] = _ZERO
    for pixel in range(4):
        for channel in range(0, G, 2):
            row = pixel * G + channel
            some0, some1, bias0, bias1 = finest[row], finest[row + 1], bias[row], bias[row + 1]
            for k in range(STRIP):
                value0[k] = gelu(some0[k] + bias0)
                value1[k] = gelu(some1[k] + bias1)
            for m in range(M):
                factor0, factor1, sums = hyper_in[m, channel], hyper_in[m, channel + 1], logits[pixel, m]
                for k in range(STRIP):
                    sums[k] += factor0 * value0[k] + factor1 * value1[k]


@kernel
def _store(logits: Floats, first: int, last: int, pixel: int, w: int, low_res_masks: Floats) -> None:
    """Put logits (4, M, S) of tokens `first` to `last`, 2 x 2 pixels of one of theirs, into low_res_masks."""
    for finest in range(4):
        y, x = 2 * (pixel // 2) + finest // 2, 2 * (pixel % 2) + finest % 2
        start = first
        while start < last:  # a row of tokens, or the part of it that is here
            row, column = start // w, start % w
            end = min(start + w - column, last)
            for m in range(len(low_res_masks)):
                source, out = logits[finest, m], low_res_masks[m, row * 4 + y]
                for k in range(start, end):
                    out[(column + k - start) * 4 + x] = source[k - first]
            start = end
