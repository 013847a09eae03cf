"""How a cluster is divided among the stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sam_pipeline.config.base import Settings, check_amount


@dataclass(frozen=True, kw_only=True)
class PoolConfig(Settings):
    """How the cluster is divided. The defaults follow from the CPUs and GPUs that Ray reports."""

    encode_actors: int | None = None
    """Image encoder actors."""
    decode_actors: int | None = None
    """Mask decoder actors."""
    encode_batch_size: int | None = None
    """Images, or crops of them, that go through the encoder at once; 16 on a GPU, 1 on CPUs, where
    larger batches are no faster."""
    encode_cpus: float | None = None
    """CPUs that one encoder actor reserves."""
    decode_cpus: float | None = None
    """CPUs that one decoder actor reserves."""
    encode_gpus: float | None = None
    """GPUs, or a share of one, that one encoder actor reserves."""
    decode_gpus: float | None = None
    """GPUs, or a share of one, that one decoder actor reserves."""
    read_cpus: float | None = None
    """CPUs that one reading task reserves."""
    threads: int | None = None
    """Torch threads of an actor that computes on CPUs."""
    shard_rows: int | None = None
    """Images in a committed shard; 256 with GPUs, 4 on CPUs, so that a kill costs minutes of work in both cases."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for item in dataclasses.fields(self):
            check_amount(item.name, getattr(self, item.name))
