"""What the steps share: where they run, how much they do, and the folders they read and write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CACHE = "cache"
"""Folder of a pack that takes the place of the user's cache."""


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    device: Literal["cuda", "cpu"]
    large_models: tuple[str, ...]
    """Of the engine, beside vit_t: with random image encoders, since 2.5 GB of weights are more than can be carried."""
    encoders: tuple[str, ...]
    """That are timed and profiled alone; see networks.image_encoder."""
    checked_encoders: tuple[str, ...]
    """That are compared with the CPU, with two blocks."""
    precision: Literal["fp16", "fp32"]
    """The product's."""
    points_per_side: int
    check_points_per_side: int
    """Fewer: the plain networks that the checks compare with are slow."""
    photographs: int
    photograph_hw: tuple[int, int]
    compared_photographs: int
    batch_sizes: tuple[int, ...]
    repeats: int
    together_s: float
    """How long two processes share the device."""
    prompts_of_kernels: int
    embedding_hw: tuple[int, int]
    """Rows and columns of image tokens that the kernels are timed on."""
    patience: int
    """Factor of the time limits."""


FULL = Scale(
    device="cuda",
    large_models=("vit_h", "vit_b"),
    encoders=("vit_h", "vit_b", "vit_t"),
    checked_encoders=("vit_h", "vit_b", "vit_t"),
    precision="fp16",
    points_per_side=32,
    check_points_per_side=8,
    photographs=64,
    photograph_hw=(1500, 2250),
    compared_photographs=8,
    batch_sizes=(4, 8, 16, 32),
    repeats=5,
    together_s=10,
    prompts_of_kernels=1024,
    embedding_hw=(64, 64),
    patience=1,
)
DRY = Scale(
    device="cpu",
    large_models=("vit_t",),
    encoders=("narrow",),
    checked_encoders=("narrow",),
    precision="fp32",
    points_per_side=2,
    check_points_per_side=1,
    photographs=1,
    photograph_hw=(150, 225),
    compared_photographs=1,
    batch_sizes=(1,),
    repeats=1,
    together_s=0,
    prompts_of_kernels=1,
    embedding_hw=(1, 16),
    patience=20,
)
"""Every step on a CPU within a minute, or later if the CPU is busy."""


@dataclass(frozen=True)
class Bench:
    """One measurement."""

    scale: Scale
    pack: Path
    """What pack.sh made."""
    output: Path
    """Results."""
    scratch: Path
    """For weights and embeddings that one step makes and others read."""

    @property
    def cache(self) -> Path:
        """Where the product finds the weights of vit_t."""
        return self.pack / CACHE

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        return self.scale.device
