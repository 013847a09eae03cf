"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_pipeline.model.checkpoints import fetch_checkpoint


@pytest.fixture(scope="session")
def vit_t_checkpoint() -> Path:
    """MobileSAM's real weights, fetched into the cache on first use."""
    return fetch_checkpoint("vit_t", progress=False)
