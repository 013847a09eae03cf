"""The official notebook on ONNX, run with both packages: the imports are all that differs, and results are compared.

Two of its calls are older than the libraries here, for the official package too: torch.onnx.export now takes another
exporter unless told otherwise, and quantize_dynamic has no optimize_model any more. Both are mended for both packages.
"""

from __future__ import annotations

import functools
import importlib
from textwrap import dedent

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from tests.parity.oracle import official_mobile_sam, official_module

pytestmark = pytest.mark.weights

IMPORTS = """
    import warnings
    import cv2
    import numpy as np
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic
    from segment_anything import sam_model_registry, SamPredictor
    from segment_anything.utils.onnx import SamOnnxModel
"""
# The example has the shape of the picture: a trace of the official release 1.0 takes images of no other.
MODEL = "sam = sam_model_registry[model_type](checkpoint=checkpoint)"
EXPORT = """
    onnx_model = SamOnnxModel(sam, return_single_mask=True)
    dim, size = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size
    example = {
        "image_embeddings": torch.randn(1, dim, *size, dtype=torch.float),
        "point_coords": torch.randint(low=0, high=1024, size=(1, 5, 2), dtype=torch.float),
        "point_labels": torch.randint(low=0, high=4, size=(1, 5), dtype=torch.float),
        "mask_input": torch.randn(1, 1, *[4 * side for side in size], dtype=torch.float),
        "has_mask_input": torch.tensor([1], dtype=torch.float),
        "orig_im_size": torch.tensor([1024, 1024], dtype=torch.float),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        with open("decoder.onnx", "wb") as file:
            torch.onnx.export(
                onnx_model,
                tuple(example.values()),
                file,
                export_params=True,
                verbose=False,
                opset_version=17,
                do_constant_folding=True,
                input_names=list(example.keys()),
                output_names=["masks", "iou_predictions", "low_res_masks"],
                dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
            )
"""
QUANTIZE = """
    quantize_dynamic(
        model_input="decoder.onnx",
        model_output="int8.onnx",
        optimize_model=True,
        per_channel=False,
        reduce_range=False,
        weight_type=QuantType.QUInt8,
    )
"""
SESSION = "session = onnxruntime.InferenceSession(model_path)"
EMBEDDING = """
    image = cv2.cvtColor(cv2.imread("picture.png"), cv2.COLOR_BGR2RGB)
    sam.to(device="cpu")
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    embedding = predictor.get_image_embedding().cpu().numpy()
"""
POINT = """
    point, label = np.array([[250, 100]]), np.array([1])
    coords = np.concatenate([point, np.array([[0.0, 0.0]])], axis=0)[None, :, :]
    labels = np.concatenate([label, np.array([-1])], axis=0)[None, :].astype(np.float32)
    coords = predictor.transform.apply_coords(coords, image.shape[:2]).astype(np.float32)
    mask_input, has_mask_input = np.zeros((1, 1, 256, 256), dtype=np.float32), np.zeros(1, dtype=np.float32)
"""
RUN = """
    inputs = {
        "image_embeddings": embedding,
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": mask_input,
        "has_mask_input": has_mask_input,
        "orig_im_size": np.array(image.shape[:2], dtype=np.float32),
    }
    masks, scores, logits = session.run(None, inputs)
    masks = masks > predictor.model.mask_threshold
"""
POINTS_AND_MASK = """
    points, point_labels = np.array([[250, 100], [220, 350]]), np.array([1, 1])
    mask_input, has_mask_input = logits, np.ones(1, dtype=np.float32)
    coords = np.concatenate([points, np.array([[0.0, 0.0]])], axis=0)[None, :, :]
    labels = np.concatenate([point_labels, np.array([-1])], axis=0)[None, :].astype(np.float32)
    coords = predictor.transform.apply_coords(coords, image.shape[:2]).astype(np.float32)
"""
BOX_AND_POINT = """
    box, point, label = np.array([150, 20, 320, 300]), np.array([[235, 160]]), np.array([0])
    coords = np.concatenate([point, box.reshape(2, 2)], axis=0)[None, :, :]
    labels = np.concatenate([label, np.array([2, 3])], axis=0)[None, :].astype(np.float32)
    coords = predictor.transform.apply_coords(coords, image.shape[:2]).astype(np.float32)
    mask_input, has_mask_input = np.zeros((1, 1, 256, 256), dtype=np.float32), np.zeros(1, dtype=np.float32)
"""
CELLS = [IMPORTS, MODEL, EXPORT, QUANTIZE, EMBEDDING, SESSION]
PROMPTS = {"point": [POINT], "points and mask": [POINT, RUN, POINTS_AND_MASK], "box and point": [BOX_AND_POINT]}


@pytest.fixture
def both(vit_t_checkpoint, tmp_path, monkeypatch):
    """A function that runs cells in both packages, each in a folder of its own; returns the names of both."""
    monkeypatch.setattr(torch.onnx, "export", functools.partial(torch.onnx.export, dynamo=False))
    quantizing = importlib.import_module("onnxruntime.quantization.quantize")
    quantize = quantizing.quantize_dynamic
    without = lambda optimize_model, **arguments: quantize(**arguments)  # noqa: E731
    monkeypatch.setattr(quantizing, "quantize_dynamic", without)
    build = lambda checkpoint: official_mobile_sam(torch.load(checkpoint, weights_only=True))  # noqa: E731
    monkeypatch.setitem(official_module("build_sam").sam_model_registry, "vit_t", build)
    names = {}
    for package in ("segment_anything", "sam_pipeline"):
        (tmp_path / package).mkdir()
        cv2.imwrite(str(tmp_path / package / "picture.png"), skimage.data.astronaut()[..., ::-1])
        names[package] = {"model_type": "vit_t", "checkpoint": str(vit_t_checkpoint)}

    def run(cells, **more):
        for package, known in names.items():
            monkeypatch.chdir(tmp_path / package)
            known |= more
            for cell in cells:
                exec(dedent(cell).replace("from segment_anything", f"from {package}"), known)
        return names["sam_pipeline"], names["segment_anything"]

    return run


def test_each_cell_gives_the_official_results(both):
    ours, theirs = both(CELLS, model_path="decoder.onnx")
    np.testing.assert_allclose(ours["embedding"], theirs["embedding"], rtol=1e-4, atol=1e-3)
    assert ours["embedding"].shape == theirs["embedding"].shape == (1, 256, 64, 64)
    for cells in PROMPTS.values():
        ours, theirs = both([*cells, RUN])
        for name in ("coords", "labels", "has_mask_input", "masks", "scores", "logits"):
            assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype), name
        assert np.array_equal(ours["coords"], theirs["coords"])
        assert 0.01 < theirs["masks"].mean() < 0.9, "masks without an edge compare nothing"
        # Sums are taken in another order; logits reach about 50.
        assert np.mean(ours["masks"] == theirs["masks"]) >= 0.9999
        np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-4, atol=2e-3)
    both([SESSION], model_path="int8.onnx")
    for cells in PROMPTS.values():
        ours, theirs = both([*cells, RUN])
        # Rounding to 8 bits turns small differences into larger ones.
        masks, official_masks = ours["masks"], theirs["masks"]
        assert (masks & official_masks).sum() / (masks | official_masks).sum() > 0.98
        np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=0, atol=0.02)
