"""The transformer of SAM's mask decoder, in which tokens attend to the image and the image to the tokens.

Reproduces segment_anything/modeling/transformer.py. Parameter names are the official ones.

Legend: B prompts, T tokens a prompt, C channels, h w rows and columns of the image embedding, K = h * w.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from sam_pipeline.model.networks.layers import MLPBlock
from sam_pipeline.model.networks.linear import Linear


class TwoWayTransformer(nn.Module):
    """Updates prompt tokens and image embedding together.

    Args:
        depth: blocks.
        embedding_dim: C.
        num_heads: heads, a divisor of ``embedding_dim // attention_downsample_rate``.
        mlp_dim: width of the feed-forward layer.
        attention_downsample_rate: C over the width that cross-attention works in.
    """

    def __init__(
        self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int, attention_downsample_rate: int = 2
    ) -> None:
        super().__init__()
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, attention_downsample_rate, skip_first_layer_pe=index == 0
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Run all blocks and the last attention of the tokens to the image.

        Args:
            image_embedding: (B, C, h, w) float.
            image_pe: positional encoding of the image embedding, (1 or B, C, h, w) float.
            point_embedding: tokens, (B, T, C) float; they serve as their own positional encoding.

        Returns:
            Tokens (B, T, C) and image embedding (B, K, C).
        """
        keys = image_embedding.flatten(2).permute(0, 2, 1)  # (B, K, C)
        key_pe = image_pe.flatten(2).permute(0, 2, 1)
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries=queries, keys=keys, query_pe=point_embedding, key_pe=key_pe)
        attended = self.final_attn_token_to_image(q=queries + point_embedding, k=keys + key_pe, v=keys)
        queries = self.norm_final_attn(queries + attended)
        return queries, keys


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, feed-forward of the tokens, image to tokens.

    Norms come after each part, and the image has no feed-forward.

    Args:
        embedding_dim: C.
        num_heads: heads.
        mlp_dim: width of the feed-forward layer.
        attention_downsample_rate: C over the width that cross-attention works in.
        skip_first_layer_pe: the first block's self-attention replaces the tokens, without positions and shortcut.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        attention_downsample_rate: int,
        skip_first_layer_pe: bool,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads, downsample_rate=1)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Update both sides once.

        Args:
            queries: tokens, (B, T, C) float.
            keys: image embedding, (B, K, C) float.
            query_pe: (B, T, C) float.
            key_pe: (1 or B, K, C) float.

        Returns:
            Tokens (B, T, C) and image embedding (B, K, C).
        """
        if self.skip_first_layer_pe:
            queries = self.norm1(self.self_attn(q=queries, k=queries, v=queries))
        else:
            q = queries + query_pe
            queries = self.norm1(queries + self.self_attn(q=q, k=q, v=queries))

        k = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(q=queries + query_pe, k=k, v=keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(q=k, k=queries + query_pe, v=queries))
        return queries, keys


class Attention(nn.Module):
    """Multi-head attention that can work in fewer channels than it is given.

    Args:
        embedding_dim: C.
        num_heads: heads.
        downsample_rate: C over the width of queries, keys and values.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.internal_dim = embedding_dim // downsample_rate
        assert self.internal_dim % num_heads == 0, (self.internal_dim, num_heads)
        self.num_heads = num_heads
        self.q_proj = Linear(embedding_dim, self.internal_dim)
        self.k_proj = Linear(embedding_dim, self.internal_dim)
        self.v_proj = Linear(embedding_dim, self.internal_dim)
        self.out_proj = Linear(self.internal_dim, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q`` (B, queries, C) to ``k`` and ``v`` (B, keys, C), all float; (B, queries, C)."""
        q = self._split_heads(self.q_proj(q))
        k = self._split_heads(self.k_proj(k))
        v = self._split_heads(self.v_proj(v))
        attn = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        out = attn.softmax(dim=-1) @ v  # (B, heads, queries, channels a head)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected

    def _split_heads(self, x: Tensor) -> Tensor:
        B, tokens, _ = x.shape
        return x.reshape(B, tokens, self.num_heads, -1).transpose(1, 2)  # (B, heads, tokens, channels a head)
