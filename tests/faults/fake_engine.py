"""An engine that finds rectangles instead of running SAM, and that crashes or hangs where a test asks for it.

An image of the tests is one colour, which is its number. The number travels through the stages as SAM's crops and
embeddings would, and decides the masks, so that every run over the same images gives the same rows.

What goes wrong is in the Instructions that the engine is made with; they travel to the workers with the job.
"""

from __future__ import annotations

import io
import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.masks.records import MaskRecord
from sam_pipeline.pipeline.job import Backend
from tests.stored_masks import NO_PROMPT

SIZE = 8
"""Height and width of the images."""


@dataclass(frozen=True)
class Instructions:
    """What the engine does beside its work."""

    poison: dict = field(default_factory=dict)
    """Number of an image → [stage, fault]: prepare, encode or decode; crash, raise, allocate, hang or lose (the GPU).

    A third element is a file: the fault happens once, when it takes the file away.
    """
    seconds: float = 0
    """What decoding an image takes."""
    crop_size: int = 1024
    """Height and width of crops. SAM's are 1024; with less, Ray schedules another run than in earnest."""
    embedding_bytes: int = 4 * 2**20
    """Beside the number; SAM's are 4 MiB."""
    crash_in_constructor: str = ""
    """A file; the constructor takes it away and crashes, or does not find it and goes on."""
    log: str = ""
    """A folder, in which each process appends the numbers it decoded: to count what was done again. Its file's name
    begins with Ray's id of the machine."""


def image_file(number):
    """The PNG of an image's number."""
    file = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), tuple(number.to_bytes(3, "big"))).save(file, "PNG")
    return file.getvalue()


def expected_masks(number):
    """The masks that the engine finds: none, one or two rectangles."""
    masks = []
    for index in range(number % 3):
        generator = np.random.default_rng((number, index))
        x, y, w, h = (int(value) for value in generator.integers((0, 0, 1, 1), (4, 4, 4, 4)))
        pixels = np.zeros((SIZE, SIZE), np.uint8, order="F")
        pixels[y : y + h + 1, x : x + w + 1] = 1
        rle = coco_mask.encode(pixels)
        masks.append(
            MaskRecord(
                segmentation={"size": [SIZE, SIZE], "counts": rle["counts"].decode()},
                area=int(pixels.sum()),
                bbox=(x, y, w, h),
                predicted_iou=round(float(generator.random()), 4),
                point_coords=((x + 0.5, y + 0.5),),
                stability_score=round(float(generator.random()), 4),
                crop_box=(0, 0, SIZE, SIZE),
            )
        )
    return masks


def without_scores(mask):
    """A mask as it is stored: scores lose digits in float32."""
    kept = {name: value for name, value in mask.items() if name not in ("predicted_iou", "stability_score")}
    kept["bbox"], kept["crop_box"] = list(mask["bbox"]), list(mask["crop_box"])
    kept["point_coords"] = [list(point) for point in mask["point_coords"]]
    return kept | NO_PROMPT


def act(instructions, number, stage):
    """Do what the instructions say about an image in a stage."""
    where, fault, *once = instructions.poison.get(str(number), (None, None))
    if where != stage or not all(map(_take_away, once)):
        return
    if fault == "crash":
        crash()
    if fault == "lose":
        raise _device_error()
    if fault == "raise":
        raise RuntimeError(f"image {number} is poison")
    hoard = []
    while fault == "allocate":
        hoard.append(np.ones(2**27, np.uint8))
    while fault == "hang":
        time.sleep(1)
    raise ValueError(fault)


def _device_error():
    from torch import AcceleratorError  # only here: the stages without an engine have no torch

    return AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`")


def _take_away(file):
    try:
        os.unlink(file)
    except FileNotFoundError:
        return False
    return True


def crash():
    """End like a bug in a C library."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def prepare(image, settings, instructions):
    """One crop, all of one colour: the number."""
    colour = image.getpixel((0, 0))
    act(instructions, _number(colour), "prepare")
    return [np.full((instructions.crop_size, instructions.crop_size, 3), colour, np.uint8)]


def _number(colour):
    return int.from_bytes(bytes(bytearray(colour)[:3]), "big")


class FakeEngine:
    def __init__(self, job, role, instructions):
        self._instructions = instructions
        self._device_error = None
        if instructions.crash_in_constructor and _take_away(instructions.crash_in_constructor):
            crash()
        name = f"{_node_id()}-{os.getpid()}-{time.time_ns()}"
        self._log = (Path(instructions.log) / name).open("a", buffering=1) if instructions.log else None

    def encode(self, crops, batch_size):
        embeddings = np.zeros((len(crops), 3 + self._instructions.embedding_bytes), np.uint8)
        for crop, embedding in zip(crops, embeddings, strict=True):
            self._act(_number(crop[0, 0]), "encode")
            embedding[:3] = crop[0, 0]
        return embeddings

    def decode(self, images):
        return (self._masks(image.embeddings) for image in images)

    def _masks(self, embeddings):
        if not embeddings:
            return []
        number = _number(embeddings[0][:3])
        self._act(number, "decode")
        if self._log is not None:
            self._log.write(f"{number}\n")
        if self._instructions.seconds:
            time.sleep(self._instructions.seconds)
        return expected_masks(number)

    def _act(self, number, stage):
        """As with a GPU: after an illegal access all that this process asks of it fails."""
        if self._device_error is None:
            try:
                act(self._instructions, number, stage)
            except RuntimeError as error:
                self._device_error = error if type(error).__name__ == "AcceleratorError" else None
                raise
        else:
            raise self._device_error


def _node_id():
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "alone"  # as in the isolation pass


def fake_backend(instructions):
    return Backend(partial(prepare, instructions=instructions), partial(FakeEngine, instructions=instructions))


def decoded_numbers(folder):
    """All numbers that were decoded, as often as they were."""
    return [int(line) for path in Path(folder).iterdir() for line in path.read_text().splitlines() if line]


def decoding_machines(folder):
    """The machines that have decoded an image so far."""
    return {path.name.partition("-")[0] for path in Path(folder).iterdir() if path.stat().st_size}
