"""The official notebooks, run with both packages: the imports are all that differs, and every value is compared.

The weights are MobileSAM's real ones, so that masks are masks; the official registry is lent MobileSAM's own model.
"""

from __future__ import annotations

import re
from textwrap import dedent
from types import FunctionType, ModuleType

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from tests.parity.notebooks import GENERATOR, PREDICTOR
from tests.parity.oracle import official_mobile_sam, official_module

pytestmark = pytest.mark.weights

NEAR = {"rtol": 1e-4, "atol": 1e-3}
"""Sums are taken in another order; logits reach about 50."""
MIN_AGREEMENT = 0.9999
"""Of pixels: one changes sides where its logit is as close to 0 as that."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, picture in (("first.png", skimage.data.astronaut()), ("second.png", skimage.data.coffee())):
        cv2.imwrite(str(tmp_path / name), picture[..., ::-1])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start(vit_t_checkpoint, monkeypatch):
    """The names that a notebook starts with."""

    def build(checkpoint):
        return official_mobile_sam(torch.load(checkpoint, weights_only=True))

    registry = official_module("build_sam").sam_model_registry
    monkeypatch.setitem(registry, "vit_t", build)
    return {"model_type": "vit_t", "sam_checkpoint": str(vit_t_checkpoint)}


def rewritten(cell):
    """A cell with its imports changed, and nothing else."""
    return re.sub(r"^(\s*)from segment_anything\b", r"\1from sam_pipeline", cell, flags=re.MULTILINE)


def run_both(cells, start):
    official, ours = dict(start), dict(start)
    for number, cell in enumerate(map(dedent, cells)):
        exec(cell, official)
        exec(rewritten(cell), ours)
        assert official.keys() == ours.keys()
        for name in official.keys() - {"__builtins__"}:
            assert_same(ours[name], official[name], f"cell {number}: {name}")
    return ours


def assert_same(ours, theirs, place):
    if isinstance(theirs, torch.nn.Module | ModuleType | FunctionType | type):
        return
    if type(theirs).__module__.startswith(("segment_anything", "mobile_sam")):
        assert type(ours).__name__ == type(theirs).__name__
        return
    if re.search(r"\.(bbox|crop_box)\[", place):
        theirs = int(theirs)  # the official generator has floats where a batch or crop had no mask
    assert type(ours) is type(theirs), place
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), place
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{place}.{name}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), place
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{place}[{index}]")
    elif isinstance(theirs, np.ndarray | torch.Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), place
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        if theirs.dtype == bool or "picture" in place:
            assert np.mean(ours == theirs) >= MIN_AGREEMENT, place
        else:
            np.testing.assert_allclose(ours, theirs, **NEAR, err_msg=place)
    elif re.search(r"\.(area|bbox)\b", place):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1), place  # a pixel that changes sides
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-4), place
    elif isinstance(theirs, bool | int | str):
        assert ours == theirs, place
    else:
        assert repr(ours) == repr(theirs), place


def test_the_notebook_of_the_predictor_gives_the_same_values(folder, start):
    names = run_both(PREDICTOR, start)
    assert all(0.01 < mask.mean() < 0.9 for mask in names["arrays"]), "masks without an edge compare nothing"


def fewer_points(cell):
    return cell.replace("Generator(sam)", "Generator(sam, points_per_side=6)").replace("side=32", "side=4")


@pytest.mark.soak  # the official generator takes minutes; CI compares with it in test_generator.py
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(fewer_points, id="fewer points"),
        pytest.param(lambda cell: cell, id="as it stands", marks=pytest.mark.slow),
    ],
)
def test_the_notebook_of_the_generator_gives_the_same_values(folder, start, change):
    names = run_both([change(cell) for cell in GENERATOR], start)
    assert names["number"] > 2
    assert names["number2"] > 2
