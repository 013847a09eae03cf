import cv2
import numpy as np
import pytest
from parity.oracle import randomise

from sam_pipeline.model.image_encoder import ImageEncoderViT
from sam_pipeline.model.registry import assemble_sam


@pytest.fixture(scope="session")
def tiny_sam():
    """A SAM of random weights for 128-pixel inputs, with masks of many sizes and scores on both sides of thresholds."""
    encoder = ImageEncoderViT(
        img_size=128, embed_dim=32, depth=2, num_heads=2, window_size=4, global_attn_indexes=(1,)
    )  # fmt: skip
    sam = assemble_sam(encoder).eval()
    randomise(sam, seed=0)
    return sam


@pytest.fixture(scope="session")
def picture():
    """A function (H, W, seed) → smooth random RGB bytes."""

    def make(height, width, seed=0):
        coarse = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3))
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)

    return make
