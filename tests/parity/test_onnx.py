"""MobileSAM's real weights: our ONNX model against the official one, in torch and as files that ONNX Runtime runs."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sam_pipeline.model.onnx_export import INPUT_NAMES, example_inputs, export_onnx
from sam_pipeline.model.registry import build_sam
from sam_pipeline.utils.onnx import SamOnnxModel
from tests.parity.oracle import official_mobile_sam, official_module

pytestmark = pytest.mark.weights

OPTIONS = {
    "single mask": (True,),
    "all masks": (False,),
    "single mask by stability": (True, True),
    "all masks with metrics": (False, True, True),
}

PADDING = ((0.0, 0.0), -1.0)
PROMPTS = {
    "one point": [((500.0, 375.0), 1.0), PADDING],
    "two points": [((500.0, 375.0), 1.0), ((620.5, 200.25), 0.0), PADDING],
    "seven points": [((100.0 * index, 90.0 * index), float(index % 2)) for index in range(1, 8)] + [PADDING],
    "box": [((150.0, 20.0), 2.0), ((720.0, 600.0), 3.0)],
    "box and point": [((400.0, 300.0), 0.0), ((150.0, 20.0), 2.0), ((720.0, 600.0), 3.0)],
    "padding alone": [PADDING],
}
SIZES = [(384, 512), (301, 450), (90, 50), (1100, 1100), (3, 997)]
LIKE_THE_EXAMPLE = (300, 450)
"""Of the shape of the image that models are traced with."""


@pytest.fixture(scope="module")
def networks(vit_t_checkpoint):
    """Ours and the official ones."""
    return build_sam("vit_t", vit_t_checkpoint), official_mobile_sam(torch.load(vit_t_checkpoint, weights_only=True))


@pytest.fixture(scope="module")
def models(networks):
    """Both models with the same options."""
    official_model = official_module("utils.onnx").SamOnnxModel
    return lambda options: (SamOnnxModel(networks[0], *options), official_model(networks[1], *options))


@pytest.fixture(scope="module")
def official(models):
    """Inputs, and what the official model makes of them in torch, by its options."""

    @cache
    def results(options):
        return [(inputs, in_torch(models(options)[1], inputs)) for inputs in all_inputs()]

    return results


def inputs_of(prompt, size, *, has_mask):
    random = np.random.default_rng(7)
    coords, labels = zip(*prompt, strict=True)
    return dict(
        zip(
            INPUT_NAMES,
            (
                random.normal(size=(1, 256, 64, 64)).astype(np.float32),
                np.array([coords], np.float32),
                np.array([labels], np.float32),
                8 * random.normal(size=(1, 1, 256, 256)).astype(np.float32),
                np.array([has_mask], np.float32),
                np.array(size, np.float32),
            ),
            strict=True,
        )
    )


def all_inputs(sizes=SIZES):
    """Every prompt, every size, without a mask and with one."""
    for index, prompt in enumerate(PROMPTS.values()):
        yield inputs_of(prompt, sizes[index % len(sizes)], has_mask=index % 2)
    yield inputs_of(PROMPTS["one point"], sizes[-1], has_mask=1)
    yield inputs_of(PROMPTS["two points"], sizes[-1], has_mask=0)


def in_torch(model, inputs):
    return [value.numpy() for value in model(**{name: torch.from_numpy(value) for name, value in inputs.items()})]


def in_onnx_runtime(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def assert_same_results(ours, theirs):
    assert [value.shape for value in ours] == [value.shape for value in theirs]
    assert [value.dtype for value in ours] == [value.dtype for value in theirs]
    (masks, scores, *metrics, low_res_masks) = ours
    (official_masks, official_scores, *official_metrics, official_low_res) = theirs
    # Logits reach about 60, and are sums whose order differs; what tells masks apart is their sign.
    for logits, official in ((masks, official_masks), (low_res_masks, official_low_res)):
        np.testing.assert_allclose(logits, official, rtol=1e-4, atol=3e-3)
        assert np.mean((logits > 0) == (official > 0)) >= 0.9999
    np.testing.assert_allclose(scores, official_scores, rtol=0, atol=1e-3)
    if metrics:
        # A pixel of a small mask changes its stability by more than rounding does.
        np.testing.assert_allclose(metrics[0], official_metrics[0], rtol=0, atol=0.01)
        np.testing.assert_allclose(metrics[1], official_metrics[1], rtol=1e-3, atol=5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_results_are_the_official_ones(models, official, options):
    ours, _ = models(options)
    for inputs, results in official(options):
        assert_same_results(in_torch(ours, inputs), results)


def export_official(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants in the trace, and that this exporter is the older one
        torch.onnx.export(
            model,
            tuple(example_inputs(model).values()),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=list(INPUT_NAMES),
            output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        )


@pytest.mark.parametrize("options", [OPTIONS["single mask"], OPTIONS["all masks with metrics"]], ids=str)
def test_the_file_gives_the_official_results(models, official, tmp_path, options):
    ours, theirs = models(options)
    export_onnx(ours, tmp_path / "ours.onnx")
    export_official(theirs, tmp_path / "theirs.onnx")
    run, run_official = in_onnx_runtime(tmp_path / "ours.onnx"), in_onnx_runtime(tmp_path / "theirs.onnx")
    for inputs, results in official(options):
        assert_same_results(run(inputs), results)
    # In the release 1.0 on the package index the trace holds the shape of its example; later official code mended it.
    for inputs in all_inputs([LIKE_THE_EXAMPLE]):
        assert_same_results(run(inputs), run_official(inputs))


def test_the_file_has_the_official_inputs_and_outputs(models, tmp_path):
    ours, theirs = models(OPTIONS["single mask"])
    export_onnx(ours, tmp_path / "ours.onnx")
    export_official(theirs, tmp_path / "theirs.onnx")
    graph, official = (onnx.load(str(tmp_path / name)).graph for name in ("ours.onnx", "theirs.onnx"))
    assert list(graph.input) == list(official.input)  # names, types and shapes, with the axis num_points
    assert [value.name for value in graph.output] == [value.name for value in official.output]


@pytest.mark.parametrize("opset", [11, pytest.param(20, marks=pytest.mark.soak)])  # the default lies between
def test_other_opsets_give_the_same_results(models, official, tmp_path, opset):
    ours, _ = models(OPTIONS["single mask"])
    export_onnx(ours, tmp_path / "model.onnx", opset=opset)
    assert [item.version for item in onnx.load(str(tmp_path / "model.onnx")).opset_import] == [opset]
    run = in_onnx_runtime(tmp_path / "model.onnx")
    for inputs, results in official(OPTIONS["single mask"]):
        assert_same_results(run(inputs), results)


def test_the_exporter_that_torch_prefers_gives_the_same_results(models, official, tmp_path):
    # The official model fails with it: sizes that depend on data stop torch.export.
    ours, _ = models(OPTIONS["single mask"])
    path = tmp_path / "ours.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators in torch's own libraries that go out of use
        torch.onnx.export(
            ours,
            tuple(example_inputs(ours).values()),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=list(INPUT_NAMES),
            output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_shapes=[None, {1: "num_points"}, {1: "num_points"}, None, None, None],
        )
    run = in_onnx_runtime(path)
    for inputs, results in official(OPTIONS["single mask"]):
        assert_same_results(run(inputs), results)


def test_the_official_names_of_its_steps_give_the_official_results(models):
    ours, theirs = models(OPTIONS["single mask"])
    masks = torch.randn(1, 4, 256, 256, generator=torch.Generator().manual_seed(1))
    scores = torch.tensor([[0.9, 0.8, 0.95, 0.7]])
    for size in SIZES:
        size = torch.tensor(size)
        resized = ours.resize_longest_image_size(size, 1024)
        assert torch.equal(resized, theirs.resize_longest_image_size(size, 1024))
        assert torch.equal(ours.mask_postprocessing(masks, size), theirs.mask_postprocessing(masks, size))
    for num_points in (1, 2, 3, 9):
        chosen, official = (model.select_masks(masks, scores, num_points) for model in (ours, theirs))
        assert all(torch.equal(*pair) for pair in zip(chosen, official, strict=True))
