"""Write synthetic scenes with what a detector would say of them: the input of docs/loop.md.

    python jobs/make_scenes.py loop --scenes 60

writes PNGs to loop/images, and loop/detections.json: a COCO file with the boxes of an imagined detector, each with a
category and a score. Its boxes are a little off, and some are around nothing, with low scores. A scene is a piece of a
photograph that ships with scikit-image, on which discs, squares and triangles lie, each with the texture of a piece of
a photograph. The same arguments give the same files. The folder must be new or empty.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from sam_pipeline.config.base import check
from sam_pipeline.errors import ConfigError, OutputError, SamPipelineError
from sam_pipeline.safety.clean_text import one_line

SIZE = 192
"""Height and width of a scene, in pixels."""

CATEGORIES = {1: "disc", 2: "square", 3: "triangle"}

_COLOURS = {1: (230, 60, 40), 2: (40, 180, 70), 3: (60, 90, 240)}
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_MIN_SIDE, _MAX_SIDE = 32, 64
_OFF = 0.06
"""Standard deviation of a detector box's error, as a share of its side."""


def make_scene(random: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[int, NDArray[np.bool_]]]]:
    """Make a scene.

    Returns:
        The image, (SIZE, SIZE, 3) uint8 RGB, and the category and pixels, (SIZE, SIZE), of each object. No two overlap.
    """
    image = cv2.GaussianBlur(_piece(random), (0, 0), 2) // 2 + 60
    objects: list[tuple[int, NDArray[np.bool_]]] = []
    taken = np.zeros((SIZE, SIZE), dtype=bool)
    for _ in range(20):
        category_id = int(random.integers(1, 4))
        pixels = _shape(category_id, random)
        if not (cv2.dilate(pixels.view(np.uint8), np.ones((9, 9))).view(bool) & taken).any():
            texture = _piece(random) // 4 + np.array(_COLOURS[category_id], np.uint8) // 4 * 3
            image[pixels] = texture[pixels]
            taken |= pixels
            objects.append((category_id, pixels))
        if len(objects) == 4:
            break
    return image, objects


def detections(objects: list[tuple[int, NDArray[np.bool_]]], random: np.random.Generator) -> list[dict[str, Any]]:
    """What a detector says of a scene: bbox (x, y, w, h), category_id and score."""
    found = []
    for category_id, pixels in objects:
        x, y, w, h = cv2.boundingRect(pixels.view(np.uint8))
        dx, dy, dw, dh = random.normal(0, _OFF, 4) * (w, h, w, h)
        found.append((x + dx, y + dy, w + dw, h + dh, category_id, random.uniform(0.6, 1)))
    if random.random() < 0.3:  # around nothing
        found.append((*random.uniform(0, SIZE / 2, 2), *random.uniform(20, 60, 2), 1, random.uniform(0.1, 0.4)))
    return [
        {"bbox": [round(float(value), 2) for value in box], "category_id": category_id, "score": round(float(score), 3)}
        for *box, category_id, score in found
    ]


def write_scenes(folder: Path, num_scenes: int, seed: int = 0) -> list[list[tuple[int, NDArray[np.bool_]]]]:
    """Write images and detections; returns the objects of each scene.

    Raises:
        ConfigError: there is something in the folder, or a number is too small.
        OutputError: the folder cannot be written.
    """
    check(num_scenes >= 1, "scenes", "at least 1", num_scenes)
    check(seed >= 0, "seed", "at least 0", seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty: name another folder")
        return _write_scenes(folder, num_scenes, seed)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {one_line(error)}") from error


def _write_scenes(folder: Path, num_scenes: int, seed: int) -> list[list[tuple[int, NDArray[np.bool_]]]]:
    (folder / "images").mkdir()
    random = np.random.default_rng(seed)
    images, annotations, objects_of_scenes = [], [], []
    for number in range(num_scenes):
        image, objects = make_scene(random)
        name = f"{number:04}.png"
        Image.fromarray(image).save(folder / "images" / name)
        images.append({"id": number + 1, "file_name": name, "height": SIZE, "width": SIZE})
        for found in detections(objects, random):
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, **found})
        objects_of_scenes.append(objects)
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "detections.json").write_text(json.dumps(content))
    return objects_of_scenes


def _piece(random: np.random.Generator) -> NDArray[np.uint8]:
    """A piece of a photograph, (SIZE, SIZE, 3)."""
    photograph = getattr(skimage.data, str(random.choice(_PHOTOGRAPHS)))()
    y, x = (int(random.integers(0, side - SIZE)) for side in photograph.shape[:2])
    return np.ascontiguousarray(photograph[y : y + SIZE, x : x + SIZE])


def _shape(category_id: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """The pixels of an object somewhere in a scene."""
    side = random.uniform(_MIN_SIDE, _MAX_SIDE)
    center = random.uniform(side / 2 + 4, SIZE - side / 2 - 4, 2)
    num_corners = {1: 64, 2: 4, 3: 3}[category_id]
    turn = 0.0 if category_id == 1 else random.uniform(-0.2, 0.2)
    # A side of the polygon is at the bottom.
    angles = turn + np.pi / 2 + np.pi / num_corners + 2 * np.pi * np.arange(num_corners) / num_corners
    corners = center + side / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(pixels, [np.round(corners).astype(np.int32)], 1)
    return pixels.view(np.bool_)


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        write_scenes(arguments.folder, arguments.scenes, arguments.seed)
    except SamPipelineError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    print(f"{arguments.scenes} scenes in {arguments.folder}")


if __name__ == "__main__":
    main()
