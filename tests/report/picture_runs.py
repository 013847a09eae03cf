"""Runs over images that are there, with masks made by hand: what a report draws."""

import json

import numpy as np
from PIL import Image

from sam_pipeline.config import InputConfig, PlanConfig
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.tables.plan import read_planned
from tests.report.runs import GRID, PROMPTED
from tests.storage.runs import row, shard, take_over
from tests.stored_masks import NO_PROMPT

HEIGHT, WIDTH = 90, 120

HOSTILE = [
    "<script>alert(1)</script>.png",  # in a folder of its own
    "'\"><img src=x onerror=alert(2)>.png",
    "\u202egnp.exe.png",
    "line\nbreak\x1b[31m\x07.png",
    "שלום عالم.png",
    "x" * 230 + ".png",
    "{{ 7 * 7 }}{% raw %}.png",
    "&lt;b&gt; ]]> --> <!--.png",
    "..png",
]


def save_images(folder, names):
    """Gradients of different colours, one picture a name."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for number, name in enumerate(names):
        pixels = np.stack([x * 2, y * 2, np.full_like(x, 40 * number % 256)], axis=2).astype(np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name, "PNG")
    return folder


def ellipse(random, **changes):
    """A mask of an ellipse in an image of HEIGHT x WIDTH."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    center_x, center_y = random.uniform(20, WIDTH - 20), random.uniform(20, HEIGHT - 20)
    radius_x, radius_y = random.uniform(5, 30), random.uniform(5, 25)
    pixels = ((x - center_x) / radius_x) ** 2 + ((y - center_y) / radius_y) ** 2 < 1
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    mask = {
        "segmentation": rle.encode(Runs.of_mask(pixels)),
        "bbox": [left, top, int(columns[-1]) - left, int(rows[-1]) - top],
        "area": int(pixels.sum()),
        "predicted_iou": float(random.uniform(0.88, 1.02)),
        "stability_score": float(random.uniform(0.95, 1.0)),
        "point_coords": [[center_x, center_y]],
        "crop_box": [0, 0, WIDTH, HEIGHT],
        **NO_PROMPT,
    }
    return mask | changes


def of_prompt(mask, number):
    """The same mask as the answer to a prompt, whose box is a little off."""
    x, y, w, h = mask["bbox"]
    box = [max(0.0, x - 2.5), max(0.0, y - 1.0), float(w + 4), float(h + 6)]
    scores = {"category_id": number % 3, "score": 0.5 + 0.04 * (number % 12)}
    return mask | {"prompt_id": number, "prompt_box": box, "point_labels": []} | scores


def write_picture_run(
    folder, names, *, masks_per_image=4, with_prompts=False, num_failed=0, num_left=0, categories=None
):
    """A run in folder/run over pictures in folder/images; the last images fail, or have no row yet.

    Returns:
        The output.
    """
    source, output = save_images(folder / "images", names), str(folder / "run")
    plan = ensure_plan(PlanConfig(images=InputConfig(input=str(source)), output=output))
    fingerprint = (PROMPTED if with_prompts else GRID) | {"weights_sha256": "ab" * 32}
    table = take_over(output, fingerprint)
    random = np.random.default_rng(0)
    rows = []
    uris = {each["image_id"]: each["uri"] for each in read_planned(output, range(plan.num_images), {}).to_pylist()}
    for image_id in range(plan.num_images - num_left):
        uri = uris[image_id]
        if image_id >= plan.num_images - num_left - num_failed:
            fields = {"status": "decode_error", "error": f"cannot decode {uri}: it has {image_id} bytes"}
            rows.append(row(image_id, 0, uri=uri, height=None, width=None, **fields))
            continue
        masks = [ellipse(random) for _ in range(masks_per_image)]
        if with_prompts:
            masks = [of_prompt(mask, number) for number, mask in enumerate(masks)]
        rows.append(row(image_id, len(masks), uri=uri, height=HEIGHT, width=WIDTH, masks=masks))
    if rows:
        table.commit([shard(output, rows)])
    if categories is not None:
        (folder / "names.json").write_text(
            json.dumps({"categories": [{"id": number, "name": name} for number, name in enumerate(categories)]})
        )
    return output
