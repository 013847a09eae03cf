"""The product's engine on photographs of one size, as a cluster runs it: crops → bytes → masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from sam_pipeline.config import AnnotateConfig, MaskConfig, ModelConfig
from sam_pipeline.masks.geometry.crops import prepare_crops
from sam_pipeline.masks.prediction import DTYPES
from sam_pipeline.masks.prompts import ImagePrompts
from sam_pipeline.model.checkpoints import resolve_checkpoint, sha256_of
from sam_pipeline.model.registry import build_sam
from sam_pipeline.model.sam import Sam
from sam_pipeline.pipeline.job import EncodedImage
from sam_pipeline.pipeline.workers.engine import SamEngine
from tests.gpu.bench import Bench
from tests.gpu.networks import sam_around, shallow_encoder
from tests.pipeline.jobs import job_of

Pixels = NDArray[np.uint8]

ENCODED_AT_ONCE = 8
DECODED_AT_ONCE = 8
"""Images of a call: of one block."""


def photographs_of_pack(bench: Bench) -> list[Pixels]:
    """Those that pack.sh has put there, or the first of them, each (H, W, 3) uint8 of its own size."""
    paths = sorted((bench.pack / "photographs").iterdir())[: bench.scale.photographs]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def photographs(bench: Bench) -> list[Pixels]:
    """As many as asked for, cut and resized to one size; more than there are, mirrored and turned around."""
    height, width = bench.scale.photograph_hw
    originals = [Image.fromarray(pixels) for pixels in photographs_of_pack(bench)]
    changes = (lambda image: image, ImageOps.mirror, ImageOps.flip, lambda image: ImageOps.flip(ImageOps.mirror(image)))

    def make(number: int) -> Pixels:
        again, which = divmod(number, len(originals))
        return np.asarray(changes[again % len(changes)](ImageOps.fit(originals[which], (width, height))))

    with ThreadPoolExecutor() as pool:
        return list(pool.map(make, range(bench.scale.photographs)))


def mask_config(bench: Bench) -> MaskConfig:
    return MaskConfig(points_per_side=bench.scale.points_per_side)


def prepared(images: Iterable[Pixels], config: MaskConfig) -> list[Pixels]:
    """The one crop of each image, resized to the model's input: what reading tasks do."""
    with ThreadPoolExecutor() as pool:
        return [crops[0] for crops in pool.map(lambda image: prepare_crops(image, config), images)]


def vit_t_weights() -> Path:
    """The weights that pack.sh has put there."""
    return resolve_checkpoint("vit_t", None)


def random_model(bench: Bench, model_type: str) -> Sam:
    """A model with random weights on the device; "narrow" is a small one for dry runs."""
    if model_type == "narrow":
        return sam_around(shallow_encoder(model_type)).to(bench.device)
    with torch.device(bench.device):  # there it takes no time to draw them
        sam = build_sam(model_type)
    for parameter in sam.parameters():
        if not parameter.any():  # tables of positions: products of zeros are faster than others
            parameter.normal_(0, 0.02)
    return sam


def random_weights(bench: Bench, model_type: str) -> Path:
    """A file with a random image encoder before the mask decoder of vit_t, made once; all models have that decoder.

    The time of an encoder does not depend on its weights. That of the rest depends on the masks that are found, so it
    is given the embeddings of vit_t's own encoder.
    """
    path = bench.scratch / f"{model_type}.pth"
    if not path.exists():
        sam = random_model(bench, model_type)
        small = build_sam("vit_t", vit_t_weights())
        sam.prompt_encoder, sam.mask_decoder = small.prompt_encoder, small.mask_decoder
        part = path.with_suffix(".part")  # a step may be ended while it writes
        torch.save(sam.state_dict(), part)
        part.rename(path)
    return path


def engine(bench: Bench, model_type: str, weights: Path, finishers: int = 2) -> SamEngine:
    """The engine of an actor that encodes and decodes, with so many threads that finish masks."""
    model = ModelConfig(model_type=model_type, checkpoint=str(weights))
    config = AnnotateConfig(output="unused", model=model, masks=mask_config(bench))
    weights_sha256, precision = sha256_of(weights), bench.scale.precision
    job = job_of(config, device=bench.device, precision=precision, weights_sha256=weights_sha256, finishers=finishers)
    return SamEngine(job, "both")


def encoded(embeddings: Sequence[bytes], size_hw: tuple[int, int]) -> list[EncodedImage]:
    """As the decoder gets them."""
    return [EncodedImage([memoryview(embedding)], size_hw, ImagePrompts()) for embedding in embeddings]


def embeddings_of_photographs(bench: Bench) -> list[bytes]:
    """By vit_t's own encoder, made once."""
    path = bench.scratch / "embeddings"
    if not path.exists():
        crops = prepared(photographs(bench), mask_config(bench))
        keep_embeddings(bench, list(engine(bench, "vit_t", vit_t_weights()).encode(crops, ENCODED_AT_ONCE)))
    data = path.read_bytes()
    size = len(data) // bench.scale.photographs
    return [data[first : first + size] for first in range(0, len(data), size)]


def keep_embeddings(bench: Bench, embeddings: Sequence[bytes]) -> None:
    """For `embeddings_of_photographs`."""
    part = bench.scratch / "embeddings.part"
    part.write_bytes(b"".join(embeddings))
    part.rename(bench.scratch / "embeddings")


def as_tensor(bench: Bench, embedding: bytes) -> Tensor:
    """(1, 256, 64, 64) on the device."""
    dtype = DTYPES[bench.scale.precision]
    return torch.frombuffer(bytearray(embedding), dtype=dtype).view(1, 256, 64, 64).to(bench.device)
