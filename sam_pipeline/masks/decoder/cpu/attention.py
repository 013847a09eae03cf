"""Attention between the image tokens of prompts and their tokens on a CPU, a strip of image tokens at a time.

What is computed of a strip, from scores to attended values, stays in the caches: only coefficients and standard
deviations are kept. docs/decoder.md, "Low rank" and "Strips", derives what is computed; comments use its symbols. Image
tokens are columns, so that neighbours in memory are treated alike and LLVM makes vector instructions. Everything is
float32.

Legend: N prompts, T tokens a prompt, Q of them that attend (all, or those that the output heads read), H heads, D
channels a head, R = H * T, S image tokens a strip. T' and Q' are with zeros to a multiple of ROWS, D' and (H * Q)' to
one of LANES, see `products`. Scores are logarithms with base 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sam_pipeline.masks.decoder.cpu.compiling import kernel
from sam_pipeline.masks.decoder.cpu.functions import exp2
from sam_pipeline.masks.decoder.cpu.products import ROWS, Floats, add_product, multiply

STRIP = 128
"""Image tokens at once: a power of two, for `_largest` and `_total`, and a multiple of LANES."""
_ZERO, _ONE = np.float32(0), np.float32(1)


class Tokens(NamedTuple):
    """Projections of the tokens of N prompts."""

    keys: Floats
    """For the image tokens to attend, (N, H, T', D)."""
    values: Floats
    """(N, H, T', D), in the second layer those of both layers, (N, 2, H, T', D)."""
    queries: Floats
    """That attend to the image tokens afterwards, (N, H, Q', D)."""


class Attended(NamedTuple):
    """What attention to the image tokens has summed, strip by strip: an online softmax, not divided yet."""

    maxima: Floats
    """Largest score so far, (N, H * Q)."""
    sums: Floats
    """Of the attention weights, (N, H * Q)."""
    own: Floats
    """Coefficients of the vectors of each prompt times attention weights, (N, R or 2 * R, (H * Q)')."""
    common: Floats
    """Attention weights times the values that are shared, (N, H, Q', D')."""


@kernel
def weigh_first(
    tokens: Tokens,
    gram: Floats,
    query_vectors: Floats,
    columns: Floats,
    image_values: Floats,
    squares: Floats,
    eps: np.float32,
    num_tokens: int,
    T: int,
    coefficients: Floats,
    rstd1: Floats,
    attended: Attended,
) -> None:
    """First layer, image to tokens; then the second layer's attention from the tokens to the image.

    Args:
        tokens: keys and values of the first layer, queries of the second.
        gram: V V^T / C, (N, R, R).
        query_vectors: q W_k V1^T, (N, R, R).
        columns: queries, `cross1`, keys and keys of the positions of the image tokens, (strips, 4, H, D, S).
        image_values: of Z1, (strips, H, S, D').
        squares: `SharedSquares.first`, (strips, S).
        eps: of the norm.
        num_tokens: image tokens, in all strips.
        T: tokens of a prompt.
        coefficients: out, r1 A1 in the first R rows, (N, strips, 2 * R, S).
        rstd1: out, r1, (N, strips, S).
        attended: out; of all tokens.
    """
    N, H = tokens.keys.shape[:2]
    R = H * T
    # The product of the last head may write up to ROWS - 1 rows of zeros behind its own.
    weights, products = np.zeros((R + ROWS, STRIP), np.float32), np.zeros((R + ROWS, STRIP), np.float32)
    scores, turned = np.zeros((R + ROWS, STRIP), np.float32), np.zeros((STRIP, attended.own.shape[2]), np.float32)
    variance = np.empty(STRIP, np.float32)
    for strip in range(len(columns)):
        width = min(STRIP, num_tokens - strip * STRIP)
        image_queries, cross1, image_keys, pe_keys = columns[strip]
        for n in range(N):
            r1, kept = rstd1[n, strip], coefficients[n, strip, :R]
            _multiply_heads(tokens.keys[n], image_queries, T, weights)
            _softmax_over_tokens(weights, H, T)  # A1
            multiply(gram[n], weights[:R], products)
            _add_heads(tokens.values[n], cross1, T, products)
            _copy(squares[strip], variance)
            for row in range(R):
                weight, product = weights[row], products[row]
                for k in range(STRIP):
                    variance[k] += weight[k] * product[k]
            for k in range(STRIP):
                r1[k] = rstd(variance[k], eps)
            multiply(query_vectors[n], weights[:R], products)
            _add_heads(tokens.queries[n], image_keys, T, products)
            _multiply_heads(tokens.queries[n], pe_keys, T, scores)
            for row in range(R):
                weight, product, score, coefficient = weights[row], products[row], scores[row], kept[row]
                for k in range(STRIP):
                    score[k] += r1[k] * product[k]
                    coefficient[k] = r1[k] * weight[k]
            _online_softmax(scores, width, n, attended)
            _turn(scores, turned, R)
            add_product(kept, turned, attended.own[n])
            _scale(scores, r1, R)
            _add_averages(scores, image_values[strip], T, attended.common[n])


@kernel
def weigh_second(
    tokens: Tokens,
    key_vectors: Floats,
    gram1: Floats,
    gram2: Floats,
    query_vectors: Floats,
    columns: Floats,
    image_values: Floats,
    squares: Floats,
    eps: np.float32,
    num_tokens: int,
    T: int,
    coefficients: Floats,
    rstd1: Floats,
    rstd2: Floats,
    attended: Attended,
) -> None:
    """Second layer, image to tokens; then the final attention from the tokens that are read to the image.

    Args:
        tokens: keys of the second layer, values of both, queries of the final attention.
        key_vectors: k W_q V1^T, (N, R, R).
        gram1: V2 V2^T / C, its first R rows with what is below its diagonal, (N, R, 2 * R).
        gram2: V2 V2^T / C, the block of the second layer, (N, R, R).
        query_vectors: q W_k V3^T, (N, H * Q, 2 * R).
        columns: queries and queries of the positions, both of `cross2`, final keys and keys of the positions of the
            image tokens, (strips, 6, H, D, S).
        image_values: of Z3, (strips, H, S, D').
        squares: `SharedSquares.second` and `cross_bias`, (strips, 2, S).
        eps: of the norm.
        num_tokens: image tokens, in all strips.
        T: tokens of a prompt.
        coefficients: r1 A1 in the first R rows, (N, strips, 2 * R, S). Out: A2 in the others.
        rstd1: r1, (N, strips, S).
        rstd2: out, r2, (N, strips, S).
        attended: out; of the tokens that are read.
    """
    N, H = tokens.keys.shape[:2]
    R, num_queries = H * T, query_vectors.shape[1]
    Q = num_queries // H
    scores, turned = np.zeros((R + ROWS, STRIP), np.float32), np.zeros((STRIP, attended.own.shape[2]), np.float32)
    products, shared = np.zeros((2 * R + ROWS, STRIP), np.float32), np.zeros((2 * R + ROWS, STRIP), np.float32)
    variance, cross = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    for strip in range(len(columns)):
        width = min(STRIP, num_tokens - strip * STRIP)
        image_queries, pe_queries, cross21, cross22, image_keys, pe_keys = columns[strip]
        second, cross_bias = squares[strip]
        for n in range(N):
            r1, r2, kept = rstd1[n, strip], rstd2[n, strip], coefficients[n, strip]
            multiply(key_vectors[n], kept[:R], scores)
            _add_heads(tokens.keys[n], pe_queries, T, scores)
            _multiply_heads(tokens.keys[n], image_queries, T, shared)
            for row in range(R):
                score, common = scores[row], shared[row]
                for k in range(STRIP):
                    score[k] += r1[k] * common[k]
            _softmax_over_tokens(scores, H, T)  # A2
            for row in range(R):
                _copy(scores[row], kept[R + row])
            multiply(gram1[n], kept, products)
            multiply(gram2[n], kept[R:], products[R:])
            _multiply_heads(tokens.values[n, 0], cross21, T, shared)
            _multiply_heads(tokens.values[n, 1], cross22, T, shared[R:])
            variance[:] = _ZERO
            _copy(cross_bias, cross)
            for row in range(2 * R):
                coefficient, product, common = kept[row], products[row], shared[row]
                for k in range(STRIP):
                    variance[k] += coefficient[k] * product[k]
                    cross[k] += coefficient[k] * common[k]
            for k in range(STRIP):
                r2[k] = rstd(variance[k] + r1[k] * (r1[k] * second[k] + cross[k]), eps)
            multiply(query_vectors[n], kept, products)
            _multiply_heads(tokens.queries[n], image_keys, Q, shared)
            _multiply_heads(tokens.queries[n], pe_keys, Q, scores)
            for row in range(num_queries):
                score, product, common = scores[row], products[row], shared[row]
                for k in range(STRIP):
                    score[k] += r2[k] * (product[k] + r1[k] * common[k])
            _online_softmax(scores, width, n, attended)
            _scale(scores, r2, num_queries)
            _turn(scores, turned, num_queries)
            add_product(kept, turned, attended.own[n])
            _scale(scores, r1, num_queries)
            _add_averages(scores, image_values[strip], Q, attended.common[n])


@kernel
def _multiply_heads(x: Floats, columns: Floats, T: int, out: Floats) -> None:
    """Products within the heads of x (H, T', D) with columns (H, D, S): out (at least H * T + ROWS, S)."""
    # Zeros behind the tokens of a head fall into the rows of the next head, which is written after it.
    for head in range(len(x)):
        multiply(x[head], columns[head], out[head * T :])


@kernel
def _add_heads(x: Floats, columns: Floats, T: int, out: Floats) -> None:
    """The same, added to `out`."""
    for head in range(len(x)):
        add_product(x[head], columns[head], out[head * T :])


@kernel
def _add_averages(weights: Floats, image_values: Floats, Q: int, common: Floats) -> None:
    """Add products within the heads of weights (at least H * Q + ROWS, S) with values (H, S, D') to (H, Q', D')."""
    rows = common.shape[1]
    for head in range(len(common)):
        # Those of the next head come with them, into rows that nobody reads.
        add_product(weights[head * Q : head * Q + rows], image_values[head], common[head])


@kernel
def _softmax_over_tokens(scores: Floats, H: int, T: int) -> None:
    """Softmax of scores (at least H * T, S) over the tokens of each head, in place."""
    largest, total = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    for first in range(0, H * T, T):
        _copy(scores[first], largest)
        for row in range(first + 1, first + T):
            score = scores[row]
            for k in range(STRIP):
                largest[k] = max(largest[k], score[k])
        total[:] = _ZERO
        for row in range(first, first + T):
            score = scores[row]
            for k in range(STRIP):
                score[k] = exp2(score[k] - largest[k])
                total[k] += score[k]
        for k in range(STRIP):
            total[k] = _ONE / total[k]
        _scale(scores[first:], total, T)


@kernel
def _online_softmax(scores: Floats, width: int, n: int, attended: Attended) -> None:
    """Turn scores of prompt n into attention weights over image tokens, relative to the largest score so far.

    What was summed with a smaller largest score is scaled.

    Args:
        scores: (at least H * Q, S). Out: weights.
        width: image tokens in the strip. Behind them weights are 2**-126, too little to change a sum.
        n: which prompt.
        attended: in and out: its largest scores and sums.
    """
    maxima, sums, own, common = attended.maxima[n], attended.sums[n], attended.own[n], attended.common[n]
    Q = len(maxima) // len(common)
    halves = np.empty(STRIP // 2, np.float32)
    for query in range(len(maxima)):
        score = scores[query]
        score[width:] = -np.inf
        largest = max(maxima[query], _largest(score, halves))
        if largest > maxima[query]:
            factor = exp2(maxima[query] - largest)
            maxima[query] = largest
            sums[query] *= factor
            for row in range(len(own)):
                own[row, query] *= factor
            averages = common[query // Q, query % Q]
            for channel in range(len(averages)):
                averages[channel] *= factor
        for k in range(STRIP):
            score[k] = exp2(score[k] - largest)
        sums[query] += _total(score, halves)


@kernel
def _largest(x: Floats, halves: Floats) -> np.float32:
    """The largest of x (S,), by halves, which LLVM makes vector instructions of; `halves` (S / 2,) is room for them."""
    length = STRIP // 2
    for k in range(length):
        halves[k] = max(x[k], x[k + length])
    while length > 1:
        length //= 2
        for k in range(length):
            halves[k] = max(halves[k], halves[k + length])
    largest: np.float32 = halves[0]
    return largest


@kernel
def _total(x: Floats, halves: Floats) -> np.float32:
    """The sum of x (S,), likewise."""
    length = STRIP // 2
    for k in range(length):
        halves[k] = x[k] + x[k + length]
    while length > 1:
        length //= 2
        for k in range(length):
            halves[k] += halves[k + length]
    total: np.float32 = halves[0]
    return total


@kernel
def _copy(x: Floats, out: Floats) -> None:
    """Copy x (S,). `out[:] = x` would also compile an error for arrays that do not fit, which takes seconds."""
    for k in range(STRIP):
        out[k] = x[k]


@kernel
def _scale(x: Floats, factors: Floats, rows: int) -> None:
    """Multiply the first rows of x (at least rows, S) with factors (S,)."""
    for row in range(rows):
        values = x[row]
        for k in range(STRIP):
            values[k] *= factors[k]


@kernel
def _turn(x: Floats, out: Floats, rows: int) -> None:
    """Transpose the first rows of x (at least rows, S) into out (S, at least rows)."""
    for row in range(rows):
        values = x[row]
        for k in range(STRIP):
            out[k, row] = values[k]


@kernel
def rstd(variance: np.float32, eps: np.float32) -> np.float32:
    """Reciprocal standard deviation. Rounding may make a variance near zero negative."""
    reciprocal: np.float32 = _ONE / np.sqrt(max(variance, _ZERO) + eps)
    return reciprocal
