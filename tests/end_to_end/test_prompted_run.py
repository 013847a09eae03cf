"""Masks of a detector's boxes, alone and beside those of a grid, by the real command and with real weights."""

import json

import numpy as np
import pytest

from sam_pipeline.config import MaskConfig
from sam_pipeline.masks import prediction
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.resize import resize_image
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt, UnusablePrompt
from sam_pipeline.model.registry import build_sam
from tests.end_to_end.pictures import HEIGHT, WIDTH, photo
from tests.end_to_end.settings import NUM_PHOTOS, SMALL_SHARDS
from tests.end_to_end.tables import num_committed, read_rows

pytestmark = [pytest.mark.weights, pytest.mark.slow]

COMMON = ("--model-type", "vit_t", *SMALL_SHARDS, "--num-cpus", 2)

BOXES = {0: [(10, 12, 60, 50)], 1: [(5, 5, 40, 80), (60, 20, 60, 70)], 3: [(0, 0, 127, 95)], 6: [(30, 30, 50, 40)]}
"""xywh in pixels; the other photographs have none."""


@pytest.fixture
def networks(vit_t_checkpoint, one_thread):
    return build_sam("vit_t", vit_t_checkpoint)


def prompts_of(index):
    return [Prompt((x, y, x + w, y + h)) for x, y, w, h in BOXES.get(index, [])]


def expected_prompted(sam, index, prompts, multimask_output):
    """For each prompt its mask; None where it is empty."""
    if not prompts:
        return []
    generator = PromptedMaskGenerator(sam, SharedDecoder(sam), multimask_output)
    embedding = prediction.encode(sam, [resize_image(photo(index), 1024)])
    found = generator.decode(embedding, (HEIGHT, WIDTH), prompts)
    return [None if isinstance(each, UnusablePrompt) else each.to_dict() for each in found]


def stored(masks):
    """Masks without what storage rounds."""
    return [
        {name: value for name, value in mask.items() if name not in ("predicted_iou", "stability_score", "score")}
        for mask in masks
    ]


def test_boxes_of_a_detector_become_masks_also_after_a_kill(photos, start, tmp_path, networks):
    results = [
        {"image_id": index, "bbox": list(box), "score": 0.5 + index / 16, "category_id": 10 + index}
        for index, boxes in BOXES.items()
        for box in boxes
    ]
    results.insert(1, {"image_id": 0, "bbox": [500, 500, 9, 9], "score": 0.9, "category_id": 1})
    results += [
        {"image_id": 99, "bbox": [1, 1, 9, 9], "score": 0.9, "category_id": 1},
        {"image_id": 2, "bbox": [1, 1, 9, 9], "score": 0.1, "category_id": 1},
        {"image_id": 6, "bbox": [1, 1, 9], "score": 0.9, "category_id": 1},
    ]
    path, output = tmp_path / "detections.json", str(tmp_path / "out")
    path.write_text(json.dumps(results))
    flags = ("--input", photos, "--output", output, "--prompts", path, "--min-score", 0.4, *COMMON)

    killed = start("annotate", *flags)
    killed.wait_until(lambda: num_committed(output) > 0)
    killed.kill()
    kept = read_rows(output)
    assert 0 < len(kept) < NUM_PHOTOS, "the kill came too late to show anything"
    # What is frozen is used: the file may be gone.
    path.unlink()
    resumed = start("annotate", "--output", output, *COMMON).wait()
    assert resumed.exit_code == 0, resumed.stderr

    rows = read_rows(output)
    assert [row for row in rows if row in kept] == kept
    assert [row["status"] for row in rows] == ["ok"] * NUM_PHOTOS
    for index, row in enumerate(rows):
        expected = expected_prompted(networks, index, prompts_of(index), multimask_output=False)
        numbers = [
            number for number, result in enumerate(results) if result["image_id"] == index and result["score"] > 0.4
        ]
        refused = {0: [1], 6: [len(results) - 1]}.get(index, [])
        used = [number for number in numbers if number not in refused]
        found = dict(zip(used, expected, strict=True))
        answered = {number: mask for number, mask in found.items() if mask is not None}
        for number, mask in answered.items():
            mask |= {"prompt_id": number, "category_id": results[number]["category_id"]}
        assert stored(row["masks"]) == stored(answered.values())
        assert [mask["score"] for mask in row["masks"]] == [results[number]["score"] for number in answered]
        assert {error["prompt_id"] for error in row["prompt_errors"] or []} == {*refused, *(found.keys() - answered)}
    assert "has no area in the image of 128x96 pixels" in rows[0]["prompt_errors"][0]["error"]
    assert "bbox must be 4 numbers" in rows[6]["prompt_errors"][0]["error"]
    assert rows[1]["masks"][0]["prompt_box"] == [5, 5, 40, 80]

    verified = start("verify", output).wait()
    assert verified.exit_code == 0, verified.stderr
    refused = start("annotate", "--output", output, "--multimask-output", *COMMON).wait()
    assert refused.exit_code == 2
    assert "multimask_output: False in the output, True now" in refused.stderr


@pytest.mark.soak
def test_prompts_beside_a_grid_of_ones_own_that_is_limited_to_regions(photos, start, tmp_path, networks):
    labels = tmp_path / "labels"
    labels.mkdir()
    for index, boxes in BOXES.items():
        lines = [
            f"{index} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}" for x, y, w, h in boxes
        ]
        (labels / f"{index:02}.txt").write_text("\n".join(lines) + "\n")
    grid = [[x, y] for y in (0.25, 0.75) for x in (0.2, 0.5, 0.8)]
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    left_half = [[0, 0], [WIDTH / 2 - 1, 0], [WIDTH / 2 - 1, HEIGHT], [0, HEIGHT]]
    regions = [{"image": "01.png", "polygon": left_half}, {"image": "02.png", "bbox": [0, 0, 1, 1]}]
    (tmp_path / "regions.jsonl").write_text("".join(json.dumps(region) + "\n" for region in regions))
    output = str(tmp_path / "out")
    flags = ("--prompts", labels, "--regions", tmp_path / "regions.jsonl", "--point-grid", tmp_path / "grid.json")
    flags += ("--mode", "both", "--multimask-output", "--limit", 4)
    finished = start("annotate", "--input", photos, "--output", output, *flags, *COMMON).wait()
    assert finished.exit_code == 0, finished.stderr

    rows = read_rows(output)
    assert len(rows) == 4
    num_of_grid = 0
    for index, row in enumerate(rows):
        points = [point for point in grid if index != 1 or point[0] < 0.5] if index != 2 else []
        generator = MaskGenerator(networks, MaskConfig(), point_grids=[np.array(points).reshape(-1, 2)])
        of_grid = [mask.to_dict() for mask in generator.generate(photo(index))]
        expected = expected_prompted(networks, index, prompts_of(index), multimask_output=True)
        answers = [mask for mask in row["masks"] if mask["prompt_id"] is not None]
        others = [mask for mask in row["masks"] if mask["prompt_id"] is None]
        assert row["masks"] == answers + others, "those of prompts come first"
        assert [mask["segmentation"] for mask in answers] == [mask["segmentation"] for mask in expected]
        assert [(mask["prompt_id"], mask["category_id"]) for mask in answers] == [
            (number, index) for number in range(len(expected))
        ]
        assert [mask["segmentation"] for mask in others] == [mask["segmentation"] for mask in of_grid]
        num_of_grid += len(others)
    assert num_of_grid > 0
    verified = start("verify", output).wait()
    assert verified.exit_code == 0, verified.stderr
