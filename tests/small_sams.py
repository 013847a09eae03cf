"""Models small enough for every test, and pictures for them."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sam_pipeline.model.networks.image_encoder import ImageEncoderViT
from sam_pipeline.model.sam import Sam, assemble_sam
from tests.random_weights import randomise

IMG_SIZE = 128


def make_tiny_sam():
    """A SAM of small networks and random weights, for inputs of 128 pixels; its masks are noise."""
    encoder = ImageEncoderViT(IMG_SIZE, embed_dim=32, depth=2, num_heads=2, window_size=4, global_attn_indexes=(1,))
    sam = assemble_sam(encoder).eval()
    randomise(sam, seed=0)
    return sam


def make_blob_sam():
    """A Sam without weights, whose masks look like masks: blobs about the point, with a hole and an island.

    Sizes, scores and sharpness vary with the point and the picture, so that each filter keeps some and drops some.
    """
    return Sam(PoolingEncoder(), PointsOnly(), BlobDecoder())


def make_picture(height, width, seed=0):
    """Smooth random RGB bytes."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3))
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


class PoolingEncoder(nn.Module):
    img_size = IMG_SIZE

    def forward(self, images):
        return F.adaptive_avg_pool2d(images, 8)  # (B, 3, 8, 8)


class PointsOnly(nn.Module):
    def forward(self, points, boxes, masks):
        coords, _ = points
        return coords.float(), coords.new_zeros(())

    def get_dense_pe(self):
        return torch.zeros(())


class BlobDecoder(nn.Module):
    def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, multimask_output):
        side = IMG_SIZE // 4
        points = sparse_prompt_embeddings[:, 0] / 4  # (N, 2), pixels of the low-resolution mask
        cells = (points / side * 8).long().clamp(0, 7)
        colour = image_embeddings[0, :, cells[:, 1], cells[:, 0]].T  # (N, 3)
        radii = torch.tensor([2.0, 5.0, 11.0]) * (1.2 + torch.sin(3 * colour)) + 0.5  # (N, 3)
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")

        def distance(dx, dy):
            centre = (points + torch.tensor([dx, dy]))[:, :, None, None]
            return torch.hypot(x - centre[:, 0], y - centre[:, 1])[:, None]  # (N, 1, side, side)

        logits = radii[:, :, None, None] - distance(0.0, 0.0)
        logits = torch.minimum(logits, distance(1.0, 0.5) - 0.8)  # a hole
        logits = torch.maximum(logits, 1.1 - distance(-3.0, 9.0))  # an island
        sharpness = 4 + 3 * torch.cos(points.sum(dim=1))
        iou_predictions = 0.48 + 0.52 * torch.sin(points[:, :1] * 0.9 + points[:, 1:] * 1.7 + torch.arange(3))
        return logits * sharpness[:, None, None, None] ** 2, iou_predictions
