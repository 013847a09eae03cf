"""The prompt encoder of SAM: points, boxes and masks to embeddings of the mask decoder's width.

Reproduces segment_anything/modeling/prompt_encoder.py. Parameter names are the official ones.

Legend: B prompts, N points a prompt, C channels, h w rows and columns of the image embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sam_pipeline.model.networks.layers import LayerNorm2d


class PromptEncoder(nn.Module):
    """Encodes prompts; coordinates are pixels in the frame of the model input (after resizing, before padding).

    Args:
        embed_dim: C.
        image_embedding_size: (h, w).
        input_image_size: (height, width) of the padded model input, pixels.
        mask_in_chans: channels between the convolutions of the mask prompt.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        # Background point, foreground point, top left corner, bottom right corner.
        self.num_point_embeddings = 4
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts of any kind; each that is given has the same B.

        Args:
            points: coordinates (B, N, 2) float, x then y, and labels (B, N): 1 foreground, 0 background, -1 padding.
            boxes: (B, 4) float, xyxy.
            masks: logits of earlier predictions, (B, 1, 4 * h, 4 * w) float.

        Returns:
            Sparse embeddings (B, n, C), where n counts the points, one padding point when there is no box, and two
            corners when there is; dense embeddings (B, C, h, w).

        Raises:
            ValueError: shapes are not these.
        """
        check_prompts(points, boxes, masks)
        sparse_embeddings = []
        if points is not None:
            sparse_embeddings.append(self._embed_points(*points, pad=boxes is None))
        if boxes is not None:
            sparse_embeddings.append(self._embed_boxes(boxes))
        no_mask: Tensor = self.no_mask_embed.weight
        if not sparse_embeddings:
            sparse_embeddings.append(no_mask.new_empty((1 if masks is None else len(masks), 0, self.embed_dim)))
        sparse = torch.cat(sparse_embeddings, dim=1)

        if masks is not None:
            dense: Tensor = self.mask_downscaling(masks)
        else:
            dense = no_mask.reshape(1, -1, 1, 1).expand(len(sparse), -1, *self.image_embedding_size)
        return sparse, dense

    def get_dense_pe(self) -> Tensor:
        """Return the positional encoding of every cell of the image embedding, (1, C, h, w) float."""
        dense_pe: Tensor = self.pe_layer(self.image_embedding_size)
        return dense_pe.unsqueeze(0)

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        labels = labels.to(torch.float32)  # which has a -1, as bool and uint8 have not
        points = points + 0.5  # from pixel indexes to pixel centres; padding points are added after it, at 0
        if pad:
            # Without a box the official encoder always appends one padding point: the decoder was trained with it.
            points = torch.cat([points, points.new_zeros((len(points), 1, 2))], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1)
        embeddings = self.pe_layer.forward_with_coords(points, self.input_image_size)  # (B, N, C)
        background, foreground = self._point_weight(0), self._point_weight(1)
        label = labels.unsqueeze(-1)
        embeddings = torch.where(label == -1, self.not_a_point_embed.weight, embeddings)
        embeddings = torch.where(label == 0, embeddings + background, embeddings)
        return torch.where(label == 1, embeddings + foreground, embeddings)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = (boxes + 0.5).reshape(-1, 2, 2)
        embeddings = self.pe_layer.forward_with_coords(corners, self.input_image_size)  # (B, 2, C)
        return embeddings + torch.cat([self._point_weight(2), self._point_weight(3)])

    def _point_weight(self, index: int) -> Tensor:
        embedding = self.point_embeddings[index]
        assert isinstance(embedding, nn.Embedding)
        return embedding.weight


def check_prompts(points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None = None) -> None:
    """Refuse shapes that broadcasting would silently misread; arguments are those of `PromptEncoder`.

    Boxes may also be (B, 1, 4) or (B, 2, 2), as for the official encoder.

    Raises:
        ValueError: naming what is wrong.
    """
    nums = []
    if points is not None:
        coords, labels = points
        if coords.dim() != 3 or coords.shape[2] != 2 or labels.shape != coords.shape[:2]:
            raise ValueError(
                f"points must be (N, P, 2) and labels (N, P), got {tuple(coords.shape)} and {tuple(labels.shape)}"
            )
        nums.append(len(coords))
    if boxes is not None:
        if boxes.dim() < 2 or boxes[:1].numel() not in (0, 4):
            raise ValueError(f"boxes must be (N, 4), got {tuple(boxes.shape)}; one box is boxes[None]")
        nums.append(len(boxes))
    if len(set(nums)) > 1:
        raise ValueError(f"points and boxes must be of the same prompts, got points of {nums[0]} and {nums[1]} boxes")
    if masks is not None and (masks.dim() != 4 or masks.shape[1] != 1):
        raise ValueError(f"masks must be (N, 1, h, w), got {tuple(masks.shape)}")


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of positions (Tancik et al. 2020).

    Args:
        num_pos_feats: random frequencies, half of C.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn((2, num_pos_feats)))

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Encode the centres of the cells of a grid of ``size`` (h, w); (C, h, w) float."""
        h, w = size
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        y_grid, x_grid = torch.meshgrid(y, x, indexing="ij")
        return self._encode(torch.stack([x_grid, y_grid], dim=-1)).permute(2, 0, 1)

    def forward_with_coords(self, coords: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Encode points.

        Args:
            coords: (B, N, 2) float, x then y, pixels from the corner of the image. Float64 stays float64 until it is
                divided by the image size, as in the official predictor: rounding earlier moves mask edges.
            image_size: (height, width), pixels.

        Returns:
            (B, N, C) float.
        """
        height, width = image_size
        return self._encode((coords / coords.new_tensor([width, height])).to(torch.float32))

    def _encode(self, coords: Tensor) -> Tensor:
        """Encode ``coords`` (..., 2) float in [0, 1] as (..., C)."""
        angles = 2 * math.pi * ((2 * coords - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
