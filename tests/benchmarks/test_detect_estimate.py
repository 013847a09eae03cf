"""The estimate of what measuring masks takes on a GPU, and the count of its work."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.measured.mask_work import measured_work
from sam_pipeline.masks.full_resolution.composed_resize import composed_axis

ESTIMATE = """
import json, sys
from benchmarks.measured import detect_estimate, mask_work
masks = mask_work.detect_masks("astronaut.png", detect_estimate.SIZE, 4)
row = detect_estimate.estimate_measuring(masks)
edges = sum(each.ms for each in detect_estimate.estimate_edges(masks))
image_side = sum(each.ms for each in detect_estimate.estimate_image_side())
figures = {"ms": row.ms, "edges": edges, "image_side": image_side, "masks": len(masks)}
print(json.dumps(figures))
"""


def test_estimates_of_the_kernels_stay_within_what_was_reached(pytestconfig, vit_t_checkpoint):
    pytest.importorskip("triton", reason="Triton is for Linux on x86-64")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", ESTIMATE]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    row = json.loads(done.stdout)
    assert row["masks"] > 10
    assert 0.1 < row["ms"] < 2
    assert 0.1 < row["edges"] < 1
    assert 1 < row["image_side"] < 5  # 9.3 before, without upscaling


def test_work_is_counted_cell_by_cell():
    """Two masks of 10 x 10 cells of 4 x 4 pixels: none mixed; and nine, around one logit, in two tiles."""
    axis = composed_axis(12, 48, 48)
    logits = np.full((2, 12, 12), 5, np.float32)
    logits[1, 5, 5] = -5
    cut = {"ROWS": 4, "COLUMNS": 16, "LANES": 8, "PIXELS": 4}
    found = measured_work(logits, axis, axis, 1.0, cut)
    heights = np.bincount(axis.starts)
    assert found.cells == 2 * 10 * 10
    assert found.mixed_cells == 9
    assert found.computed_pixels == heights[3:6].sum() ** 2
    assert found.iterations[:2] == (20, 2)  # row 3 of cells; rows 4 and 5
