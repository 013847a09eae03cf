"""What half precision changes: masks with it beside our own in float32, on many photographs, on a CPU.

--half says where it is used. encoder: as on a GPU, operands and results of products are rounded and sums are float32;
so is the embedding. embedding: that alone. image-tokens: those of the mask decoder, as on GPUs before Ampere; a
minute a photograph. all: as on such a GPU. Nothing is timed: a CPU is no faster in half precision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.commands.fidelity import summary
from benchmarks.measured.float16 import ProductsOfFloat16
from benchmarks.photographs import photographs, read_photograph
from benchmarks.report import agreement, print_table, write_result
from sam_pipeline.config import MaskConfig, ResolvedPrecision
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.decoder.token_side import TokenSide
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.masks.prediction import DTYPES, encode
from sam_pipeline.model.checkpoints import fetch_checkpoint
from sam_pipeline.model.registry import build_sam
from sam_pipeline.model.sam import Sam

_PROMPTS_AT_ONCE = 8


class Variant(NamedTuple):
    """Where half precision is used."""

    encoder: ResolvedPrecision
    embedding: ResolvedPrecision
    """As what the embedding is stored."""
    image_side: ResolvedPrecision
    """Of the image tokens in the mask decoder."""

    def __str__(self) -> str:
        return f"encoder {self.encoder}, embedding {self.embedding}, image tokens {self.image_side}"


_HALF: tuple[ResolvedPrecision, ...] = ("bf16", "fp16")
VARIANTS = {
    "encoder": [Variant(half, half, "fp32") for half in _HALF],
    "embedding": [Variant("fp32", half, "fp32") for half in _HALF],
    "image-tokens": [Variant("fp32", "fp32", half) for half in _HALF],
    "all": [Variant(half, half, half) for half in _HALF],
}


def run(images: Sequence[Path], settings: dict[str, Any], variants: Sequence[Variant], name: str) -> None:
    """Compare, print, write."""
    sam = build_sam("vit_t", fetch_checkpoint("vit_t"))
    config = MaskConfig(**settings)
    generators = {
        precision: MaskGenerator(sam, config, decoder=_decoder(sam, precision))
        for precision in {"fp32", *(variant.image_side for variant in variants)}
    }
    progress = Console(stderr=True)
    rows: dict[Variant, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for path in images:
        with ProductsOfFloat16():
            found = _compare(generators, variants, read_photograph(path))
        for variant, of_variant in found.items():
            rows[variant].append({"image": path.name, **of_variant})
            progress.print(f"{path.name}, {variant}: {of_variant['matched']:.1%} matched", soft_wrap=True)
    _print(rows)
    documents = [
        {"variant": variant._asdict(), "summary": _summary(of_variant), "rows": of_variant}
        for variant, of_variant in rows.items()
    ]
    write_result(name, {"settings": settings, "variants": documents})


def _compare(
    generators: Mapping[ResolvedPrecision, MaskGenerator], variants: Sequence[Variant], image: NDArray[np.uint8]
) -> dict[Variant, dict[str, Any]]:
    """Agreement of each variant with float32, on one photograph; generators by the precision of the image tokens."""
    exact = generators["fp32"]
    crops = prepare_crops(image, exact.config, exact.sam.image_encoder.img_size)
    embeddings = {
        encoder: torch.cat([encode(exact.sam, [crop], encoder) for crop in crops])
        for encoder in {"fp32", *(variant.encoder for variant in variants)}
    }

    def masks(variant: Variant) -> list[dict[str, Any]]:
        stored = embeddings[variant.encoder].to(DTYPES[variant.embedding])
        return [record.to_dict() for record in generators[variant.image_side].decode(stored, image.shape[:2])]

    reference = masks(Variant("fp32", "fp32", "fp32"))
    return {variant: agreement(reference, masks(variant)) for variant in variants}


def _decoder(sam: Sam, precision: ResolvedPrecision) -> SharedDecoder:
    decoder = SharedDecoder(sam)
    if precision != "fp32":
        # What a GPU uses; on CPUs the decoder takes float32 alone.
        decoder._dtype = DTYPES[precision]
        decoder._token_side = TokenSide(sam, decoder._dtype)
        decoder._image_sides = [BatchedImageSide(ImageSideWeights.of(sam), decoder._dtype, _PROMPTS_AT_ONCE)]
        decoder._pool = None  # its threads would not have our products of float16
    return decoder


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of `fidelity`, without the bars of float32."""
    return {key: value for key, value in summary(rows).items() if key != "passed" and not key.endswith("_bar")}


def _print(rows: Mapping[Variant, Sequence[Mapping[str, Any]]]) -> None:
    summaries = {variant: _summary(of_variant) for variant, of_variant in rows.items()}
    print_table(
        ("encoder, embedding, image tokens", "masks", "in fp32", "matched", "counts equal", "Δ count", "Δ score"),
        [
            (
                ", ".join(variant),
                str(found["masks"]),
                str(found["masks_reference"]),
                f"{found['matched']:.2%}",
                f"{found['equal_count']:.1%}",
                str(found["max_count_difference"]),
                f"{found['max_score_difference']:.0e}",
            )
            for variant, found in summaries.items()
        ],
    )


def main(arguments: Sequence[str]) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser("benchmark precision", description=__doc__)
    parser.add_argument("images", type=Path, nargs="*", help="photographs; by default those in packages")
    parser.add_argument("--settings", type=json.loads, default={"points_per_side": 16}, help="JSON of mask settings")
    parser.add_argument("--half", choices=VARIANTS, default="encoder", help="where half precision is used")
    parser.add_argument("--name", help="of the result file, by default precision and where")
    parsed = parser.parse_args(arguments)
    name = parsed.name or f"precision-{parsed.half}"
    run(parsed.images or photographs(), parsed.settings, VARIANTS[parsed.half], name)
