"""The Python snippets of README.md and docs/ run as they stand, in a folder that holds the run of `make demo`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from sam_pipeline.storage.tables.results import MaskTable, put_shard
from sam_pipeline.storage.tables.schema import MASKS_SCHEMA

ROOT = Path(__file__).parent.parent
TEXT = "".join(page.read_text() for page in (ROOT / "README.md", ROOT / "docs" / "results.md"))
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def folder_with_run(tmp_path: Path) -> Path:
    output = str(tmp_path / "demo" / "run")
    (tmp_path / "photographs").mkdir()
    photograph = tmp_path / "photographs" / "a.png"
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(photograph)
    uri = photograph.as_uri()
    write_plan(output, "photographs", source_table([SourceObject(uri, photograph.stat().st_size, None)]), {})
    pixels = np.zeros((6, 8), np.uint8, order="F")
    pixels[1:3, 2:5] = 1
    segmentation = coco_mask.encode(pixels)
    segmentation["counts"] = segmentation["counts"].decode()
    mask = {
        "segmentation": segmentation,
        "bbox": [2, 1, 2, 1],
        "area": 6,
        "predicted_iou": 0.97,
        "stability_score": 0.95,
        "point_coords": [[3.0, 2.0]],
        "crop_box": [0, 0, 8, 6],
    }
    row = {
        "image_id": 0,
        "uri": uri,
        "height": 6,
        "width": 8,
        "status": "ok",
        "error": None,
        "num_masks": 1,
        "masks": [mask],
        "extra": None,
    }
    table = MaskTable.take_over(output, {"max_pixels": 1000}, {}, {})
    table.commit([put_shard(output, pa.Table.from_pylist([row], schema=MASKS_SCHEMA), {}, table_id=table.id)])
    (tmp_path / "demo" / "images").mkdir()
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "demo" / "images" / "a.png")
    return tmp_path


def test_there_are_snippets_for_every_reader_the_readme_names() -> None:
    readers = ("pycocotools", "duckdb", "polars", "ray.data.read_delta", "open_run", "annotate(", "SamPredictor")
    assert all(any(reader in snippet for snippet in SNIPPETS) for reader in readers)


def snippets() -> Iterator[object]:
    for snippet in SNIPPETS:
        # tests/test_api.py has such a run in `make test`.
        marks = [pytest.mark.soak] if "annotate(" in snippet else []
        yield pytest.param(snippet, marks=marks, id=snippet.split("\n", 1)[0].replace(" ", "_"))


@pytest.mark.weights
@pytest.mark.parametrize("snippet", list(snippets()))
def test_snippet_runs_and_prints_the_result(snippet: str, folder_with_run: Path, vit_t_checkpoint: Path) -> None:
    env = os.environ | {"POLARS_FMT_STR_LEN": "300", "POLARS_TABLE_WIDTH": "400"}  # else Polars cuts the URI
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=folder_with_run, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = "(3, 480, 640)" if "SamPredictor" in snippet else "a.png"
    assert expected in done.stdout
