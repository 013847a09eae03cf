import threading
from pathlib import Path

import pytest
import torch

from sam_pipeline.pipeline import engine as engine_module
from sam_pipeline.pipeline.engine import SamEngine
from tests.pipeline.jobs import job_of

EMBEDDING = memoryview(torch.zeros(256, 64, 64).numpy().tobytes())


class Halves:
    """A generator whose masks are the sizes of images; the first image is finished only once the second is detected."""

    def __init__(self, *_):
        self.second_detected = threading.Event()

    def detect(self, image_embeddings, original_size):
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
    threads = torch.get_num_threads()
    yield SamEngine(job_of(threads=threads))
    torch.set_num_threads(threads)


def test_images_keep_their_order_while_some_are_finished_beside_the_device(engine):
    images = [([EMBEDDING], (1, 1)), ([EMBEDDING] * 2, (2, 2)), ([], (None, None)), ([EMBEDDING], (3, 3))]
    assert engine.decode(iter(images)) == [[(1, 1)], [(2, 2)] * 2, [], [(3, 3)]]
