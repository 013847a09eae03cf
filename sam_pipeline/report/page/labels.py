"""Names of masks on a picture, none over another."""

from __future__ import annotations

from dataclasses import dataclass

from sam_pipeline.report.page.pictures import Picture
from sam_pipeline.safety.clean_text import printable

# As in the page's style sheet; a letter is about six tenths of its height wide.
_LETTER_HEIGHT, _LETTER_WIDTH = 20.0, 12.6


@dataclass(frozen=True)
class Label:
    """A text and where its base line begins, in pixels of the picture."""

    x: float
    y: float
    text: str


def place_labels(picture: Picture) -> list[Label]:
    """Labels at the upper left corner of the box of each mask, or below it; those that find no free place are left out.

    Small masks come first: they have the least room.
    """
    width, height = picture.size_wh
    taken: list[tuple[float, float, float, float]] = []
    labels: list[Label] = []
    for mask in reversed(picture.masks):
        text = printable(mask.label)
        if not text:
            continue
        x, y, _, h = mask.box_xywh
        text_width = len(text) * _LETTER_WIDTH
        x = max(0.0, min(x, width - text_width))
        for top in (y - _LETTER_HEIGHT, y + h, y):
            place = (x, top, x + text_width, top + _LETTER_HEIGHT)
            if top < 0 or place[3] > height or any(_overlap(place, other) for other in taken):
                continue
            taken.append(place)
            labels.append(Label(round(x, 1), round(top + 0.85 * _LETTER_HEIGHT, 1), text))
            break
    return labels


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
