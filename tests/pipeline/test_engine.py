import threading
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from sam_pipeline.masks.prompts import ImagePrompts
from sam_pipeline.pipeline import engine as engine_module
from sam_pipeline.pipeline.engine import SamEngine
from sam_pipeline.pipeline.job import EncodedImage
from tests.pipeline.jobs import job_of

EMBEDDING = memoryview(torch.zeros(256, 64, 64).numpy().tobytes())


class Halves:
    """A generator whose masks are the sizes of images; the first image is finished only once the second is detected."""

    def __init__(self, *_):
        self.second_detected = threading.Event()

    def detect(self, image_embeddings, original_size, regions):
        if original_size == (2, 2):
            self.second_detected.set()
        return [original_size] * len(image_embeddings)

    def finish(self, detections):
        if detections[:1] == [(1, 1)]:
            assert self.second_detected.wait(timeout=10), "the device waited for the first image to be finished"
        return detections


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(engine_module, "resolve_checkpoint", lambda *_: Path("weights"))
    monkeypatch.setattr(engine_module, "sha256_of", lambda _: "0")
    monkeypatch.setattr(engine_module, "build_sam", lambda *_, **__: torch.nn.Identity())
    monkeypatch.setattr(engine_module, "MaskGenerator", Halves)
    monkeypatch.setattr(engine_module, "SharedDecoder", lambda *_: None)
    monkeypatch.setattr(engine_module, "PromptedMaskGenerator", lambda *_: None)
    threads = torch.get_num_threads()
    yield SamEngine(job_of(threads=threads))
    torch.set_num_threads(threads)


def test_images_keep_their_order_while_some_are_finished_beside_the_device(engine):
    counts_and_sizes = [(1, (1, 1)), (2, (2, 2)), (0, (None, None)), (1, (3, 3))]
    images = (EncodedImage([EMBEDDING] * count, size, ImagePrompts()) for count, size in counts_and_sizes)
    assert engine.decode(images) == [[(1, 1)], [(2, 2)] * 2, [], [(3, 3)]]


class Encoding(Halves):
    """A generator whose embeddings have channels last, as cuDNN leaves them; the first pixel of a crop decides them."""

    def encode(self, crops):
        random = [torch.rand((1, 256, 64, 64), generator=torch.manual_seed(int(crop[0, 0, 0]))) for crop in crops]
        return torch.cat(random).to(memory_format=torch.channels_last).to(self.dtype)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embeddings_are_contiguous_bytes_one_row_a_crop(engine, precision, monkeypatch):
    monkeypatch.setattr(engine_module, "MaskGenerator", Encoding)
    encoder = SamEngine(job_of(threads=torch.get_num_threads(), precision=precision))
    encoder._generator.dtype = engine_module._DTYPES[precision]
    crops = [np.full((3, 4, 3), number, np.uint8) for number in range(5)]
    embeddings = encoder.encode(crops, 2)
    expected = encoder._generator.encode(crops).contiguous().flatten(1).view(torch.uint8).numpy()
    np.testing.assert_array_equal(embeddings, expected)
    assert embeddings.flags.c_contiguous
    assert len(encoder.encode([], 2)) == 0


def test_a_gpu_turns_embeddings_round_itself_and_copies_without_waiting():
    embeddings, host = Mock(is_cuda=True), Mock()  # a torch without CUDA makes no such tensor
    engine_module._copy_to_host(embeddings, host)
    host.copy_.assert_called_once_with(embeddings.contiguous.return_value, non_blocking=True)


class Parts:
    """A generator whose masks are the prompts, with the number that was detected beside them."""

    waiting, most_waiting = 0, 0

    def __init__(self, *_):
        pass

    def detect(self, image_embedding, original_size, prompts):
        assert len(image_embedding) == 1, "prompts are for the whole image"
        Parts.waiting += 1
        Parts.most_waiting = max(Parts.most_waiting, Parts.waiting)
        return [(prompt, len(prompts)) for prompt in prompts]

    def finish(self, detections):
        time.sleep(0.02)
        Parts.waiting -= 1
        return detections


@pytest.mark.parametrize(("mode", "of_grid"), [("prompted", []), ("both", [(1, 1)] * 3)])
@pytest.mark.usefixtures("engine")
def test_the_prompts_of_an_image_are_answered_in_parts_and_before_the_grid(monkeypatch, mode, of_grid):
    monkeypatch.setattr(engine_module, "PromptedMaskGenerator", Parts)
    monkeypatch.setattr(engine_module, "_PROMPTS_AT_ONCE", 2)
    monkeypatch.setattr(Halves, "finish", lambda _, detections: detections)
    engine = SamEngine(job_of(threads=torch.get_num_threads(), mode=mode))
    images = [EncodedImage([EMBEDDING] * 3, (1, 1), ImagePrompts("abcde")), EncodedImage([], (1, 1), ImagePrompts())]
    answered = [("a", 2), ("b", 2), ("c", 2), ("d", 2), ("e", 1)]
    assert engine.decode(images) == [[*answered, *of_grid], []]


@pytest.mark.usefixtures("engine")
def test_a_fast_device_waits_for_what_it_has_detected(monkeypatch):
    monkeypatch.setattr(engine_module, "PromptedMaskGenerator", Parts)
    monkeypatch.setattr(engine_module, "_PROMPTS_AT_ONCE", 1)
    engine = SamEngine(job_of(threads=torch.get_num_threads(), mode="prompted"))
    images = [EncodedImage([EMBEDDING], (1, 1), ImagePrompts("abcdef")) for _ in range(2)]
    assert [len(masks) for masks in engine.decode(images)] == [6, 6]
    assert Parts.most_waiting <= 3
