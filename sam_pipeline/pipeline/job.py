"""What every worker needs to know of a run: one immutable record, shipped with each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sam_pipeline.config import AnnotateConfig, ResolvedPrecision


@dataclass(frozen=True)
class Job:
    """A run as its workers see it: resolved, with nothing left to decide."""

    config: AnnotateConfig
    output: str
    device: Literal["cpu", "cuda"]
    precision: ResolvedPrecision
    weights_sha256: str
    threads: int

    @property
    def storage_options(self) -> dict[str, Any]:
        """Fsspec options of the input and the output."""
        return self.config.parsed_storage_options
