"""How many pictures a page has, and how large they are: defaults and limits."""

from __future__ import annotations

from sam_pipeline.config.base import check

NUM_PICTURES = 24
PICTURE_SIZE = 640


def check_pictures(num_pictures: int, picture_size: int) -> None:
    """Raise ConfigError where the settings `gallery` and `picture_size` are out of range."""
    check(0 <= num_pictures <= 1000, "gallery", "from 0 to 1000", num_pictures)
    check(64 <= picture_size <= 4096, "picture_size", "from 64 to 4096", picture_size)
