"""Grids of point prompts from a file, in place of points_per_side."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.object_reading import read_json


@dataclass(frozen=True, eq=False)
class PointGrids:
    """The official generator's `point_grids`."""

    layers: tuple[NDArray[np.float64], ...]
    """For the image and for each crop layer: (P, 2), x and y as shares of width and height."""
    sha256: str
    """Hash of the numbers, however the file writes them."""


def read_point_grids(uri: str, num_layers: int, storage_options: StorageOptions) -> PointGrids:
    """Read [[x, y], …], or a list of such lists, from JSON.

    Args:
        uri: of the file.
        num_layers: how many there must be: one for the image and one for each crop layer.
        storage_options: of the storage.

    Raises:
        ConfigError: the file holds something else, another number of grids, or points outside [0, 1].
        InputError: there is no such file, or no permission, or it is not JSON.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    content = read_json(uri, storage_options)
    if _depth(content) == 2:
        content = [content]
    try:
        layers = tuple(np.array(layer, np.float64).reshape(len(layer), 2) for layer in content)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"point_grid {uri} must be JSON, [[x, y], …] or a list of such lists: {one_line(error)}"
        ) from error
    if len(layers) != num_layers:
        raise ConfigError(
            f"point_grid {uri} holds {len(layers)} grids; crop_n_layers={num_layers - 1} needs {num_layers}"
        )
    if not all(((layer >= 0) & (layer <= 1)).all() and len(layer) for layer in layers):
        raise ConfigError(f"point_grid {uri} must hold points in [0, 1], shares of the image's width and height")
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(len(layer).to_bytes(8, "little") + layer.astype("<f8").tobytes())
    return PointGrids(layers, digest.hexdigest())


def _depth(content: object) -> int:
    depth = 0
    while isinstance(content, list) and content:
        content, depth = content[0], depth + 1
    return depth
