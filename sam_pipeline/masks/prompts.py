"""Prompts and regions of one image: what a file said, checked against the image and brought to its pixels. No torch.

H W pixels of the original frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

Role = Literal["prompt", "region"]
Point = tuple[float, float]
BoxXyxy = tuple[float, float, float, float]


class PromptRow(TypedDict):
    """A prompt or region as a file gives it, neither clipped nor checked against the image."""

    role: Role
    prompt_id: int
    box_xyxy: Sequence[float] | None
    point_coords: Sequence[Sequence[float]] | None
    """x and y."""
    point_labels: Sequence[int] | None
    """1 for a point on the object, 0 for one off it."""
    mask_input: bytes | None
    """(256, 256) float32 logits, little-endian, row by row."""
    polygon: Sequence[Sequence[float]] | None
    """(corners, 2) x and y, of a region only."""
    is_relative: bool
    """Whether box, points and polygon are shares of the image's width and height; else they are its pixels."""
    category_id: int | None
    score: float | None
    error: str | None
    """Why it cannot be used; then all that describes an object is None."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What describes one object, in pixels of the original frame.

    Raises:
        ValueError: it holds nothing, or points and labels differ in number.
    """

    box_xyxy: BoxXyxy | None = None
    point_coords: tuple[Point, ...] = ()
    """x and y."""
    point_labels: tuple[int, ...] = ()
    """1 for a point on the object, 0 for one off it."""
    mask_input: NDArray[np.float32] | None = None
    """(256, 256) low-resolution logits of an earlier prediction."""
    prompt_id: int = 0
    category_id: int | None = None
    """The detector's, as its score: carried to the result."""
    score: float | None = None

    def __post_init__(self) -> None:
        if len(self.point_coords) != len(self.point_labels):
            raise ValueError(f"{len(self.point_coords)} points come with {len(self.point_labels)} labels")
        if self.box_xyxy is None and not self.point_coords and self.mask_input is None:
            raise ValueError("a prompt needs a box, points or a mask")


@dataclass(frozen=True)
class UnusablePrompt:
    """A prompt or region that cannot be used, or whose mask is empty."""

    role: Role
    prompt_id: int
    error: str


@dataclass(frozen=True)
class ImagePrompts:
    """Prompts and regions of one image, and which of them cannot be used."""

    prompts: Sequence[Prompt] = ()
    regions: Sequence[NDArray[np.float64]] | None = None
    """Polygons, (corners, 2) x and y in pixels: the grid is limited to their union. None: it is not limited."""
    errors: Sequence[UnusablePrompt] = field(default=())


def resolve_prompts(rows: Iterable[PromptRow], original_size: tuple[int, int]) -> ImagePrompts:
    """Bring the prompts and regions of an image to its pixels.

    Boxes are clipped to the image. A prompt or region that cannot be used becomes one of `errors`; the others are kept.

    Args:
        rows: in the order of their file.
        original_size: (H, W) of the image.
    """
    prompts: list[Prompt] = []
    regions: list[NDArray[np.float64]] = []
    errors: list[UnusablePrompt] = []
    has_regions = False
    for row in rows:
        is_region = row["role"] == "region"
        has_regions |= is_region
        try:
            if row["error"] is not None:
                raise ValueError(row["error"])
            if is_region:
                regions.append(_polygon(row, original_size))
            else:
                prompts.append(_prompt(row, original_size))
        except ValueError as error:
            errors.append(UnusablePrompt(row["role"], row["prompt_id"], str(error)))
    return ImagePrompts(prompts, regions if has_regions else None, errors)


def points_in_regions(points: NDArray[np.float64], regions: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Which points, (P, 2), lie in at least one polygon: (P,) bool, by the even-odd rule."""
    inside = np.zeros(len(points), bool)
    x, y = points[:, :1], points[:, 1:]  # (P, 1)
    for polygon in regions:
        (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T  # (corners,) each
        crosses = (y0 > y) != (y1 > y)  # (P, corners): the edge spans the height of the point
        with np.errstate(divide="ignore", invalid="ignore"):  # level edges, which none crosses
            right_of_point = x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        inside |= (crosses & right_of_point).sum(axis=1) % 2 == 1
    return inside


def _prompt(row: PromptRow, original_size: tuple[int, int]) -> Prompt:
    height, width = original_size
    scale_x, scale_y = (width, height) if row["is_relative"] else (1, 1)
    points = tuple((x * scale_x, y * scale_y) for x, y in row["point_coords"] or ())
    if not all(0 <= x <= width and 0 <= y <= height for x, y in points):
        raise ValueError(f"a point lies outside the image of {width}x{height} pixels")
    mask_input = row["mask_input"]
    return Prompt(
        box_xyxy=None if row["box_xyxy"] is None else _clipped(row["box_xyxy"], (scale_x, scale_y), original_size),
        point_coords=points,
        point_labels=tuple(row["point_labels"] or ()),
        mask_input=None if mask_input is None else _square(np.frombuffer(mask_input, "<f4")),
        prompt_id=row["prompt_id"],
        category_id=row["category_id"],
        score=row["score"],
    )


def _square(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n * n,) → (n, n); storage gives n = 256."""
    side = math.isqrt(len(values))
    return values.reshape(side, side)


def _clipped(box: Sequence[float], scale_xy: tuple[float, float], original_size: tuple[int, int]) -> BoxXyxy:
    height, width = original_size
    x0, x1 = (min(max(x * scale_xy[0], 0.0), float(width)) for x in box[::2])
    y0, y1 = (min(max(y * scale_xy[1], 0.0), float(height)) for y in box[1::2])
    if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, box))):
        raise ValueError(
            f"the box {[round(each, 3) for each in box]} has no area in the image of {width}x{height} pixels"
        )
    return x0, y0, x1, y1


def _polygon(row: PromptRow, original_size: tuple[int, int]) -> NDArray[np.float64]:
    height, width = original_size
    scale = np.array([width, height]) if row["is_relative"] else np.ones(2)
    if row["polygon"] is not None:
        return np.array(row["polygon"], np.float64) * scale
    assert row["box_xyxy"] is not None, "a region has a polygon or a box"
    x0, y0, x1, y1 = _clipped(row["box_xyxy"], (scale[0], scale[1]), original_size)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
