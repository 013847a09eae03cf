"""Overlapping crops of an image, cut and resized for the image encoder, without torch.

Reproduces `generate_crop_boxes` of segment_anything/utils/amg.py. Boxes are xyxy in pixels of the original frame, with
x1 and y1 exclusive.
"""

from __future__ import annotations

import math
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks.geometry.resize import check_image, resize_pillow

Box = tuple[int, int, int, int]


def crop_boxes_of_layers(im_size: tuple[int, int], n_layers: int, overlap_ratio: float) -> tuple[list[Box], list[int]]:
    """Boxes of the whole image (layer 0) and of the crops of each further layer.

    Args:
        im_size: (H, W).
        n_layers: crop layers in addition to the whole image; layer i cuts each side into 2**i.
        overlap_ratio: overlap of neighbouring crops of layer 1, as a share of the shorter side.

    Returns:
        Boxes in xyxy, column by column within a layer, and the layer of each. Where an image is very small, crops may
        hold no pixel.
    """
    height, width = im_size
    boxes: list[Box] = [(0, 0, width, height)]
    layers = [0]
    for layer in range(1, n_layers + 1):
        n_per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n_per_side))
        crop_w = math.ceil((overlap * (n_per_side - 1) + width) / n_per_side)
        crop_h = math.ceil((overlap * (n_per_side - 1) + height) / n_per_side)
        for column, row in product(range(n_per_side), range(n_per_side)):
            x0, y0 = (crop_w - overlap) * column, (crop_h - overlap) * row
            boxes.append((x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height)))
            layers.append(layer)
    return boxes, layers


def generate_crop_boxes(im_size: tuple[int, int], n_layers: int, overlap_ratio: float) -> tuple[list[Box], list[int]]:
    """`crop_boxes_of_layers` without crops that hold no pixel, at which the official generator fails."""
    boxes, layers = crop_boxes_of_layers(im_size, n_layers, overlap_ratio)
    kept = [i for i, (x0, y0, x1, y1) in enumerate(boxes) if x0 < x1 and y0 < y1]
    return [boxes[i] for i in kept], [layers[i] for i in kept]


def prepare_crops(
    image: Image.Image | NDArray[np.uint8], config: MaskConfig, img_size: int = 1024
) -> list[NDArray[np.uint8]]:
    """Cut an image into the crops that `config` asks for and resize each to the model's input size.

    Args:
        image: original frame; of Pillow's mode RGB, which is not copied, or (H, W, 3) uint8.
        config: its crop settings say which crops.
        img_size: long side of the model input, in pixels.

    Returns:
        One (h, w, 3) uint8 array a crop, model input frame, unpadded, in the order of `generate_crop_boxes`.

    Raises:
        ValueError: an array is not (H, W, 3) uint8, or is empty.
    """
    if isinstance(image, np.ndarray):
        check_image(image)
        image = Image.fromarray(image)
    (_, *parts), _ = generate_crop_boxes((image.height, image.width), config.crop_n_layers, config.crop_overlap_ratio)
    # Cut before they are resized: with `box`, Pillow's filter would look beyond the edges of a crop.
    images = chain([image], map(image.crop, parts))
    return [np.asarray(resize_pillow(crop, img_size)) for crop in images]
