"""How a cluster is divided among the stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sam_pipeline.config.base import Settings, check_amount
from sam_pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PoolConfig(Settings):
    """How the cluster is divided. The defaults follow from the CPUs and GPUs that Ray reports."""

    gpus: int | None = None
    """GPUs that the run may use. It asks Ray's autoscaler for them, begins when min_gpus are there, and uses the others
    as soon as they are there. Default: all that there are, and those that join."""
    min_gpus: int | None = None
    """With gpus: how many must be there before the run begins; default 1."""
    gpu_wait_s: float = 1800.0
    """With gpus: seconds to wait for min_gpus."""
    encode_on: str | None = None
    """Ray resource of the machines that encode, such as accelerator_type:H100 or one of your own; decode_on names that
    of the machines that decode. Encoders and decoders then have GPUs of their own."""
    decode_on: str | None = None
    """Ray resource of the machines that decode, such as accelerator_type:L4."""
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
    """GPUs, or a share of one, that one encoder actor reserves: 0.5, or 1 with encode_on."""
    decode_gpus: float | None = None
    """GPUs, or a share of one, that one decoder actor reserves: 0.5, or 1 with decode_on."""
    read_cpus: float | None = None
    """CPUs that one reading task reserves."""
    threads: int | None = None
    """Torch threads of an actor that computes on CPUs."""
    shard_rows: int | None = None
    """Images in a shard; 256 with GPUs, 4 on CPUs, where an image takes much longer: a kill loses what is not
    committed."""

    def __post_init__(self) -> None:
        """Raises ConfigError naming the first setting that is out of range."""
        super().__post_init__()
        for item in dataclasses.fields(self):
            if item.name not in ("encode_on", "decode_on"):
                check_amount(item.name, getattr(self, item.name))
        if (self.encode_on is None) != (self.decode_on is None):
            raise ConfigError("encode_on and decode_on go together: give both or none")
        for name in ("encode_on", "encode_actors", "decode_actors"):
            if self.gpus is not None and getattr(self, name) is not None:
                raise ConfigError(f"gpus says how many pairs of an encoder and a decoder there are: leave out {name}")
        if self.min_gpus is not None and self.min_gpus > (self.gpus or 0):
            raise ConfigError(f"min_gpus is {self.min_gpus}: give as many gpus, or more")
