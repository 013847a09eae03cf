"""The image side on a CPU: no image tokens of any prompt are ever made.

The layers add to the tokens k that all prompts of an image share few vectors of a prompt's own, one for each of its T
tokens in each of H heads, in shares w that differ from image token to image token; then a layer norm scales each token
by a number r of its own. Without means, weights and biases of the norms:

    n1 = r1 (k + w1 V1)                     after the first layer
    n2 = r2 (r1 (k + w1 V1) + w2 V2)        after the second

All that is read from the tokens is linear in them. So a score of n1 is r1 times the score of k, which in the D channels
of a head takes next to nothing, plus what the score makes of V1, H * T numbers, in the shares w1; sums of tokens
likewise. The variances that r comes from are quadratic in w: products with the H * T by H * T products of the vectors.
That is half the arithmetic of making the tokens, and none of their memory: 4 MB a prompt, written and read four times.

Legend: N prompts, T tokens a prompt, Q of them that are read in the end, H heads, D channels a head, R = H * T rows, C
channels, K image tokens, h w rows and columns of the image embedding, M masks a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_pipeline.masks.decoder.image_side import ImageSideAttentions, ImageSideWeights, SharedTokens, score_root
from sam_pipeline.model.networks.linear import linear
from sam_pipeline.model.networks.two_way_transformer import Attention

# Rows of the embedding upscaled at once: 16 rows become 1024 x 16 pixels of 32 channels, 2 MB.
_TILE_ROWS = 16


@dataclass(frozen=True)
class _SharedRows:
    """What all prompts of an image share: its tokens as each of the products below takes them."""

    image_queries: Tensor
    """First layer, image to tokens, (H, D, K)."""
    first_square: Tensor
    """Mean square of the tokens before the first norm, (K,)."""
    first_cross: Tensor
    """Their products with the vectors V1, over the heads of the values, (H, D, K)."""
    keys: Tensor
    """Second layer, tokens to image, (H, D, K)."""
    values: Tensor
    """(H, K, D)."""
    queries: Tensor
    """Second layer, image to tokens, (H, D, K)."""
    second_square: Tensor
    """As before the first norm, before the second, (K,)."""
    bias_cross: Tensor
    """Mean product of the tokens with what is the same in all of them, (K,)."""
    second_cross: tuple[Tensor, Tensor]
    """Products with V1 and V2, (H, D, K) each."""
    final_keys: Tensor
    """(H, D, K)."""
    final_values: Tensor
    """(H, K, D)."""
    fine: Tensor
    """After the first transposed convolution, (K, 4 * C / 4)."""


@dataclass(frozen=True)
class _FirstLayer:
    """What one layer has made of the tokens."""

    shared: _SharedRows
    weights: Tensor
    """Shares w1 r1, and room for w2, (N, 2 * R, K)."""
    scale: Tensor
    """r1, (N, K)."""
    values: Tensor
    """From which V1 is made, (N, T, H * D)."""


@dataclass(frozen=True)
class _BothLayers:
    """What both layers have made of the tokens."""

    shared: _SharedRows
    weights: Tensor
    """(N, 2 * R, K)."""
    scales: tuple[Tensor, Tensor]
    """r1 and r2, (N, K) each."""
    vectors: Tensor
    """V1 and V2 with the weights of the norms behind them, (N, 2 * R, C)."""


class LowRankImageSide:
    """The passes on a CPU. See `ImageSide`.

    Args:
        weights: of the passes.
        attentions: that they are part of.
    """

    prompts_at_once = 8
    """What their tokens ask for is asked for in one product; it waits in the third-level cache."""
    max_tokens: float = 24
    """More would be more rows than there are channels to spare."""

    def __init__(self, weights: ImageSideWeights, attentions: ImageSideAttentions) -> None:
        self._num_heads = H = weights.num_heads
        first, second = weights.norms
        self._eps = first.eps, second.eps
        (g1, b1), (g2, b2) = ((norm.weight.detach(), norm.bias.detach()) for norm in (first, second))
        out1, out2 = (_detached(attn.out_proj) for attn in (attentions.first_to_tokens, attentions.second_to_tokens))
        self._first_bias, self._first_weight, self._second_weight = out1[1], g1, g2

        # From the heads of values to vectors that are added: those of the first layer, as its norm takes them, as it
        # leaves them, and as the second norm takes them; and those of the second layer. (H, D, C) each.
        added = _centred(out1[0].T)
        self._added = _by_head(added, H)
        self._first_vectors = _by_head(added * g1, H)
        self._vectors = _by_head(_centred(added * g1), H), _by_head(_centred(out2[0].T), H)
        # What the norm and the projection behind it add to all tokens alike; in every head a share, which weights sum.
        self._bias = _centred(b1 + out2[1])

        # Projections of image tokens, and what they make of the tokens' places and of the norm's bias: what a key has
        # of that bias drops out of a softmax over keys, and what a value has adds up to itself.
        pe = weights.key_pe
        to_image, to_tokens, final = attentions.second_to_image, attentions.second_to_tokens, attentions.final_to_image
        self._roots = [score_root(attn) for attn in attentions]
        self._key, _ = _detached(to_image.k_proj)
        self._key_places = self._columns(pe @ self._key.T)
        self._value, self._value_bias = _detached(to_image.v_proj)[0], self._value_of(b1, to_image)
        self._query, query_bias = _detached(to_tokens.q_proj)
        self._query_places = self._columns((pe + b1) @ self._query.T + query_bias)
        self._final_key, _ = _detached(final.k_proj)
        self._final_key_places = self._columns(pe @ self._final_key.T)
        self._final_value, self._final_value_bias = _detached(final.v_proj)[0], self._value_of(b2, final)
        (up1, up1_bias), (up2, self._up2_bias) = weights.up1, weights.up2
        self._up1, self._up1_bias, self._up2 = up1, b2 @ up1 + up1_bias, up2.T.contiguous()
        self._up_norm = weights.up_norm

    def share(self, tokens: SharedTokens) -> _SharedRows:
        """See `ImageSide`."""
        before = _centred(tokens.keys + self._first_bias)
        normed = before * self._first_weight
        centred = _centred(normed)
        weighted = centred * self._second_weight
        first, second = self._vectors
        return _SharedRows(
            image_queries=self._columns(tokens.image_queries),
            first_square=before.square().mean(dim=1),
            first_cross=self._columns(linear(before, self._added.flatten(0, 1))),
            keys=self._columns(linear(normed, self._key)),
            values=self._columns(linear(normed, self._value)).transpose(1, 2).contiguous(),
            queries=self._columns(linear(normed, self._query)),
            second_square=centred.square().mean(dim=1),
            bias_cross=(centred @ self._bias) / len(self._bias),
            second_cross=(
                self._columns(linear(centred, first.flatten(0, 1))),
                self._columns(linear(centred, second.flatten(0, 1))),
            ),
            final_keys=self._columns(linear(weighted, self._final_key)),
            final_values=self._columns(linear(weighted, self._final_value)).transpose(1, 2).contiguous(),
            fine=weighted @ self._up1,
        )

    def update_first(
        self, shared: _SharedRows, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_FirstLayer, Tensor]:
        """See `ImageSide`."""
        N, T, H, K = *keys.shape[:2], self._num_heads, shared.image_queries.shape[2]
        keys, queries = keys / self._roots[0], queries / self._roots[1]
        logits, cross = self._products(keys, shared.image_queries), self._products(values, shared.first_cross)
        scores, places = self._products(queries, shared.keys), self._products(queries, self._key_places)
        added, vectors = self._rows(values, self._added), self._rows(values, self._first_vectors)
        gram = added @ added.mT  # (N, R, R)
        mixed = self._rows(queries, _by_head(self._key, H)) @ vectors.mT  # (N, R, R)
        own_values = (vectors @ self._value.T).view(N, H * T, H, -1).transpose(1, 2)  # (N, H, R, D)
        weights, scale, attended = keys.new_empty(N, 2 * H * T, K), keys.new_empty(N, K), torch.empty_like(queries)
        for n in range(N):
            shares = logits[:, n].softmax(dim=1).flatten(0, 1)  # (R, K)
            square = _product(gram[n], shares)
            square.view(H, T, K).add_(cross[:, n], alpha=2)
            variance = shared.first_square + square.mul_(shares).sum(dim=0) / added.shape[2]
            r = scale[n] = _scale(variance, self._eps[0])
            w1 = torch.mul(shares, r, out=weights[n, : H * T])
            score = _product(mixed[n], w1)
            score.view(H, T, K).addcmul_(scores[:, n], r).add_(places[:, n])
            attended[n] = self._average(score, w1, r, shared.values, own_values[n], self._value_bias)
        return _FirstLayer(shared, weights, scale, values), attended

    def update_second(
        self, state: _FirstLayer, keys: Tensor, values: Tensor, queries: Tensor
    ) -> tuple[_BothLayers, Tensor]:
        """See `ImageSide`."""
        shared, weights = state.shared, state.weights
        N, T, H, K, Q = *keys.shape[:2], self._num_heads, weights.shape[2], queries.shape[1]
        R = H * T
        keys, queries = keys / self._roots[2], queries / self._roots[3]
        pushes, push_places = self._products(keys, shared.queries), self._products(keys, self._query_places)
        crosses = [self._products(own, of) for own, of in zip((state.values, values), shared.second_cross, strict=True)]
        scores, places = self._products(queries, shared.final_keys), self._products(queries, self._final_key_places)
        first, second = (self._rows(own, of) for own, of in zip((state.values, values), self._vectors, strict=True))
        vectors = torch.cat([first, second + self._bias / H], dim=1)  # (N, 2 R, C)
        # The quadratic form by blocks: what is below the diagonal is what is above it.
        gram = torch.cat([first @ first.mT, 2 * first @ vectors[:, R:].mT], dim=2)  # (N, R, 2 R)
        second_gram = vectors[:, R:] @ vectors[:, R:].mT  # (N, R, R)
        pushed = self._rows(keys, _by_head(self._query, H)) @ self._rows(state.values, self._first_vectors).mT
        vectors = vectors * self._second_weight
        mixed = self._rows(queries, _by_head(self._final_key, H)) @ vectors.mT  # (N, H * Q, 2 R)
        own_values = (vectors @ self._final_value.T).view(N, 2 * R, H, -1).transpose(1, 2)  # (N, H, 2 R, D)
        scale, attended = torch.empty_like(state.scale), torch.empty_like(queries)
        for n in range(N):
            w, r1 = weights[n], state.scale[n]
            logits = _product(pushed[n], w[:R])
            logits.view(H, T, K).addcmul_(pushes[:, n], r1).add_(push_places[:, n])
            w[R:] = logits.view(H, T, K).softmax(dim=1).flatten(0, 1)
            square = torch.zeros_like(r1)
            parts = _product(gram[n], w), _product(second_gram[n], w[R:])
            for part, own, cross in zip(parts, w.view(2, R, K), crosses, strict=True):
                part.view(H, T, K).addcmul_(cross[:, n], r1, value=2)
                square += part.mul_(own).sum(dim=0)
            variance = square / vectors.shape[2] + r1 * (r1 * shared.second_square + 2 * shared.bias_cross)
            r2 = scale[n] = _scale(variance, self._eps[1])
            score = _product(mixed[n], w)
            score.view(H, Q, K).addcmul_(scores[:, n], r1).mul_(r2).add_(places[:, n])
            attended[n] = self._average(score, w, r1, shared.final_values, own_values[n], self._final_value_bias, r2)
        return _BothLayers(shared, weights, (state.scale, scale), vectors), attended

    def upscale(
        self, state: _BothLayers, hyper_in: Tensor, kept: Tensor, size: tuple[int, int], num_rows: int
    ) -> Tensor:
        """See `ImageSide`."""
        worth = kept.any(dim=1).nonzero().flatten().tolist()
        masks = [self._upscale(state, n, hyper_in[n][kept[n]], size[1], num_rows) for n in worth]
        return torch.cat([hyper_in.new_empty((0, 4 * num_rows, 4 * size[1])), *masks])

    def _upscale(self, state: _BothLayers, n: int, hyper_in: Tensor, w: int, num_rows: int) -> Tensor:
        """Mask logits of one prompt, (masks, 4 * num_rows, 4 * w), from hyper_in (masks, C / 8)."""
        norm, (r1, r2) = self._up_norm, (scale[n] for scale in state.scales)
        channels, finest_channels = len(norm.weight), hyper_in.shape[1]
        to_fine = (state.vectors[n] @ self._up1).T.contiguous()  # (4 * C / 4, 2 R)
        logits = hyper_in.new_empty(len(hyper_in), num_rows, 2, 2, w, 2, 2)  # masks, then row, column coarse to fine
        for first in range(0, num_rows, _TILE_ROWS):
            rows = slice(first, min(first + _TILE_ROWS, num_rows))
            tokens = slice(rows.start * w, rows.stop * w)
            shares = state.weights[n, :, tokens] * r2[tokens]
            fine = linear(shares.T, to_fine, self._up1_bias)
            fine.addcmul_(state.shared.fine[tokens], (r1[tokens] * r2[tokens])[:, None])
            fine = fine.view(-1, channels)
            fine = F.gelu(F.layer_norm(fine, (channels,), norm.weight, norm.bias, norm.eps))
            finest = F.gelu(linear(fine, self._up2, self._up2_bias)).view(-1, finest_channels)
            pixels = (hyper_in @ finest.T).view(len(hyper_in), -1, w, 2, 2, 2, 2)
            logits[:, rows] = pixels.permute(0, 1, 3, 5, 2, 4, 6)
        return logits.view(len(hyper_in), 4 * num_rows, 4 * w)

    def _average(
        self,
        scores: Tensor,
        shares: Tensor,
        r1: Tensor,
        shared_values: Tensor,
        own_values: Tensor,
        bias: Tensor,
        r2: Tensor | None = None,
    ) -> Tensor:
        """Values of the tokens as scores weight them.

        Args:
            scores: (H * Q, K).
            shares: of a prompt's own vectors in each token, before the scale r2, (rows, K).
            r1: scale of the shared tokens in it, (K,).
            shared_values: (H, K, D).
            own_values: of the vectors, (H, rows, D).
            bias: (H, 1, D), the same for all tokens.
            r2: scale of both, (K,); none after one layer.

        Returns:
            (Q, H * D).
        """
        weights = scores.softmax(dim=1)
        if r2 is not None:
            weights *= r2
        own = linear(weights, shares).view(self._num_heads, -1, len(shares))  # (H, Q, rows)
        of_shared = (weights * r1).view(self._num_heads, -1, len(r1))
        found = torch.bmm(of_shared, shared_values) + torch.bmm(own, own_values) + bias
        return found.transpose(0, 1).flatten(1)

    def _products(self, x: Tensor, columns: Tensor) -> Tensor:
        """Products within the heads of x (N, T, H * D) with columns (H, D, K): (H, N, T, K)."""
        N, T, _ = x.shape
        heads = x.view(N * T, self._num_heads, -1).transpose(0, 1)
        return torch.bmm(heads, columns).view(self._num_heads, N, T, -1)

    def _rows(self, x: Tensor, matrix: Tensor) -> Tensor:
        """X (N, T, H * D) through a matrix of each head (H, D, C): (N, H * T, C)."""
        by_head = x.view(*x.shape[:2], self._num_heads, -1)
        return torch.einsum("nthd,hdc->nhtc", by_head, matrix).flatten(1, 2)

    def _columns(self, x: Tensor) -> Tensor:
        """(K, H * D) → (H, D, K)."""
        return x.view(len(x), self._num_heads, -1).permute(1, 2, 0).contiguous()

    def _value_of(self, x: Tensor, attn: Attention) -> Tensor:
        """Value of a vector (C,), with the projection's bias: (H, 1, D)."""
        weight, bias = _detached(attn.v_proj)
        return (weight @ x + bias).view(self._num_heads, 1, -1)


def _detached(projection: torch.nn.Linear) -> tuple[Tensor, Tensor]:
    return projection.weight.detach(), projection.bias.detach()


def _scale(variance: Tensor, eps: float) -> Tensor:
    """What a norm multiplies by; rounding may leave less than nothing of a variance that is next to nothing."""
    return (variance.clamp(min=0) + eps).rsqrt()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A @ b by the faster of the products, see `linear`."""
    return linear(a, b.T)


def _centred(x: Tensor) -> Tensor:
    """Without the mean of the channels, (..., C)."""
    return x - x.mean(dim=-1, keepdim=True)


def _by_head(matrix: Tensor, num_heads: int) -> Tensor:
    """(H * D, C) → (H, D, C)."""
    return matrix.view(num_heads, -1, matrix.shape[1])
