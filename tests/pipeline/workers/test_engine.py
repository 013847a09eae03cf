import gc
import threading
import time
import weakref
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from sam_pipeline.config import AnnotateConfig, MaskConfig, ModelConfig
from sam_pipeline.errors import CheckpointError
from sam_pipeline.masks.prompts import ImagePrompts
from sam_pipeline.model.checkpoints import sha256_of
from sam_pipeline.model.registry import build_sam
from sam_pipeline.pipeline.job import EncodedImage
from sam_pipeline.pipeline.workers import engine as engine_module
from sam_pipeline.pipeline.workers.engine import SamEngine
from tests.pipeline.jobs import job_of

EMBEDDING = memoryview(torch.zeros(256, 64, 64).numpy().tobytes())


class Halves:
    """A generator whose masks are the sizes of images; the first image is finished only once the second is detected."""

    points_at_once = 1024
    point_grids = (np.zeros((1024, 2)),)

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
    yield SamEngine(job_of(threads=threads), "both")
    torch.set_num_threads(threads)


def test_images_keep_their_order_while_some_are_finished_beside_the_device(engine):
    counts_and_sizes = [(1, (1, 1)), (2, (2, 2)), (0, (None, None)), (1, (3, 3))]
    images = (EncodedImage([EMBEDDING] * count, size, ImagePrompts()) for count, size in counts_and_sizes)
    assert list(engine.decode(images)) == [[(1, 1)], [(2, 2)] * 2, [], [(3, 3)]]


def random_embeddings(_, crops, precision):
    """With channels last, as cuDNN leaves them; the first pixel of a crop decides them."""
    random = [torch.rand((1, 256, 64, 64), generator=torch.manual_seed(int(crop[0, 0, 0]))) for crop in crops]
    return torch.cat(random).to(memory_format=torch.channels_last).to(engine_module.prediction.DTYPES[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_embeddings_are_contiguous_bytes_one_row_a_crop(engine, precision, monkeypatch):
    monkeypatch.setattr(engine_module.prediction, "encode", random_embeddings)
    encoder = SamEngine(job_of(threads=torch.get_num_threads(), precision=precision), "both")
    crops = [np.full((3, 4, 3), number, np.uint8) for number in range(5)]
    embeddings = encoder.encode(crops, 2)
    expected = random_embeddings(None, crops, precision).contiguous().flatten(1).view(torch.uint8).numpy()
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
    monkeypatch.setattr(engine_module, "MAX_PROMPTS_AT_ONCE", 2)
    monkeypatch.setattr(Halves, "finish", lambda _, detections: detections)
    engine = SamEngine(job_of(threads=torch.get_num_threads(), mode=mode), "both")
    images = [EncodedImage([EMBEDDING] * 3, (1, 1), ImagePrompts("abcde")), EncodedImage([], (1, 1), ImagePrompts())]
    answered = [("a", 2), ("b", 2), ("c", 2), ("d", 2), ("e", 1)]
    assert list(engine.decode(images)) == [[*answered, *of_grid], []]


@pytest.mark.usefixtures("engine")
def test_a_fast_device_waits_for_what_it_has_detected(monkeypatch):
    monkeypatch.setattr(engine_module, "PromptedMaskGenerator", Parts)
    monkeypatch.setattr(engine_module, "MAX_PROMPTS_AT_ONCE", 1)
    engine = SamEngine(job_of(threads=torch.get_num_threads(), mode="prompted"), "both")
    images = [EncodedImage([EMBEDDING], (1, 1), ImagePrompts("abcdef")) for _ in range(2)]
    assert [len(masks) for masks in engine.decode(images)] == [6, 6]
    assert Parts.most_waiting <= 3


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_crops_are_encoded_in_batches_that_fit_into_the_devices_memory(engine, monkeypatch):
    sizes = []

    def encode(_, crops, precision):
        sizes.append(len(crops))
        if len(crops) > 3:
            raise out_of_memory()
        return torch.tensor([float(crop) for crop in crops])[:, None, None, None].expand(-1, 256, 64, 64)

    monkeypatch.setattr(engine_module.prediction, "encode", encode)
    encoded = engine.encode([1, 2, 3, 4, 5, 6, 7, 8, 9], 8).view(np.float32)
    assert (encoded == np.arange(1, 10)[:, None]).all()
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert engine.encode([1, 2, 3], 8).view(np.float32)[:, 0].tolist() == [1, 2, 3]
    assert sizes[7:] == [2, 1], "the size that fitted is remembered"


def test_a_crop_that_does_not_fit_alone_is_an_error(engine, monkeypatch):
    def encode(*_):
        raise out_of_memory()

    monkeypatch.setattr(engine_module.prediction, "encode", encode)
    with pytest.raises(torch.OutOfMemoryError):
        engine.encode([1, 2], 8)


class LittleMemory:
    """Detects no more than so many points at once; the masks are the sizes of images."""

    fits = 100
    points_at_once = 1024
    point_grids = (np.zeros((1024, 2)),)

    def __init__(self, *_):
        self.detected = []

    def detect(self, image_embeddings, original_size, regions):
        self.detected.append((original_size, self.points_at_once))
        if self.points_at_once > self.fits:
            raise out_of_memory()
        return [original_size]

    def finish(self, detections):
        return detections


IMAGES = [EncodedImage([EMBEDDING], size, ImagePrompts()) for size in ((1, 1), (2, 2), (3, 3))]
FOUND = [[(1, 1)], [(2, 2)], [(3, 3)]]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("fits", "fitting"), [(100, 64), (20, 16)])
def test_images_are_begun_anew_with_fewer_prompts_where_the_devices_memory_ran_out(fits, fitting, monkeypatch):
    monkeypatch.setattr(engine_module, "MaskGenerator", LittleMemory)
    monkeypatch.setattr(LittleMemory, "fits", fits)
    engine = SamEngine(job_of(threads=torch.get_num_threads()), "both")
    assert list(engine.decode(iter(IMAGES))) == FOUND
    detected = list(engine._generator.detected)
    sizes = [1024, 512, 256, 128, 64, 32, 16]
    assert list(dict.fromkeys(size for _, size in detected)) == sizes[: sizes.index(fitting) + 1]
    assert list(engine.decode(IMAGES)) == FOUND
    assert {size for _, size in engine._generator.detected[len(detected) :]} == {fitting}


@pytest.mark.usefixtures("engine")
def test_an_image_for_which_no_size_is_small_enough_is_an_error(monkeypatch):
    monkeypatch.setattr(engine_module, "MaskGenerator", LittleMemory)
    monkeypatch.setattr(LittleMemory, "fits", 1)
    engine = SamEngine(job_of(threads=torch.get_num_threads()), "both")
    with pytest.raises(torch.OutOfMemoryError):
        list(engine.decode(IMAGES))
    assert engine._generator.points_at_once == 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit_t.pt"
    torch.save(build_sam("vit_t").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def engine_of(weights):
    sum_of_weights = sha256_of(weights)

    def load(role, sha256=sum_of_weights):
        model = ModelConfig(model_type="vit_t", checkpoint=str(weights))
        masks = MaskConfig(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
        config = AnnotateConfig(output="run", model=model, masks=masks)
        return SamEngine(job_of(config, weights_sha256=sha256, threads=torch.get_num_threads()), role)

    return load


@pytest.mark.parametrize(
    ("role", "networks"),
    [
        ("encode", {"image_encoder"}),
        ("decode", {"prompt_encoder", "mask_decoder"}),
        ("both", {"image_encoder", "prompt_encoder", "mask_decoder"}),
    ],
)
def test_an_actor_holds_the_networks_of_its_role_alone(role, networks, engine_of, monkeypatch):
    built = []

    def build(*args, **kwargs):
        sam = build_sam(*args, **kwargs)
        built.extend((name.partition(".")[0], weakref.ref(value)) for name, value in sam.named_parameters())
        return sam

    monkeypatch.setattr(engine_module, "build_sam", build)
    engine = engine_of(role)
    gc.collect()
    assert {network for network, parameter in built if parameter() is not None} == networks
    del engine


def test_what_one_actor_encodes_another_decodes(engine_of):
    crop, both = np.full((1024, 700, 3), 90, np.uint8), engine_of("both")
    (embedding,) = engine_of("encode").encode([crop], 1)
    assert embedding.tobytes() == both.encode([crop], 1).tobytes()
    image = EncodedImage([memoryview(embedding)], (102, 70), ImagePrompts())
    (masks,) = engine_of("decode").decode([image])
    assert masks
    assert [masks] == list(both.decode([image]))


@pytest.mark.parametrize("role", ["encode", "decode", "both"])
def test_weights_that_are_not_the_runs_are_refused_whatever_is_kept_of_them(role, engine_of):
    with pytest.raises(CheckpointError, match="the run was started with 0000"):
        engine_of(role, sha256="0000")
