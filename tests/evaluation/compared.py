"""Runs and annotation files to compare, made by hand; and what pycocotools says of them."""

import contextlib
import io
import json

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_pipeline.evaluation.evaluate import evaluate
from sam_pipeline.evaluation.settings import EvaluationSettings
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.storage.runs import plan, row, shard, take_over
from tests.stored_masks import NO_PROMPT

HEIGHT, WIDTH = 120, 160


def rectangle(x, y, w, h, size=(HEIGHT, WIDTH)):
    pixels = np.zeros(size, bool)
    pixels[y : y + h, x : x + w] = True
    return pixels


def stored(pixels, predicted_iou=0.9, **changes):
    """A mask as a run stores it."""
    runs = Runs.of_mask(pixels)
    x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8))))
    return {
        "segmentation": rle.encode(runs),
        "bbox": [int(x), int(y), max(0, int(w) - 1), max(0, int(h) - 1)],
        "area": int(pixels.sum()),
        "predicted_iou": predicted_iou,
        "stability_score": 0.97,
        "point_coords": [[0.5, 0.5]],
        "crop_box": [0, 0, pixels.shape[1], pixels.shape[0]],
        **NO_PROMPT,
        **changes,
    }


def prompted(pixels, predicted_iou=0.9, **changes):
    """A mask as a run with prompts stores it."""
    return stored(pixels, predicted_iou, **{"prompt_id": 0, "category_id": 1, "score": predicted_iou} | changes)


def annotation(pixels, category_id=1, **changes):
    """An object of the ground truth, with compressed RLE."""
    encoded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    found = {
        "category_id": category_id,
        "iscrowd": 0,
        "area": float(pixels.sum()),
        "bbox": coco_mask.toBbox(encoded).tolist(),
        "segmentation": {"size": list(pixels.shape), "counts": encoded["counts"].decode()},
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


def coco_file(objects, categories=("object",), **changes):
    """An annotation file: images 0000.jpg, … with the ids 11, 12, … and the objects of each."""
    images = [
        {"id": 11 + number, "file_name": f"{number:04}.jpg", "height": HEIGHT, "width": WIDTH}
        for number in range(len(objects))
    ]
    flat = [{**each, "image_id": 11 + number} for number, some in enumerate(objects) for each in some]
    annotations = [{**each, "id": number} for number, each in enumerate(flat, 1)]
    names = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    return {"images": images, "annotations": annotations, "categories": names} | changes


def saved_run(output, masks):
    """A run whose images 0000.jpg, … have some masks each."""
    rows = [row(number, len(some), masks=some, height=HEIGHT, width=WIDTH) for number, some in enumerate(masks)]
    return saved_rows(output, rows)


def saved_rows(output, rows, num_images=None):
    plan(str(output), len(rows) if num_images is None else num_images)
    take_over(str(output)).commit([shard(str(output), rows)])
    return str(output)


def compare(folder, masks, truth, selection=None, **settings):
    """The evaluation of a run with some masks against an annotation file."""
    folder.mkdir(exist_ok=True)
    output = saved_run(folder / "run", masks)
    return compare_run(output, folder, truth, selection, **settings)


def compare_run(output, folder, truth, selection=None, **settings):
    place = folder / "truth.json"
    place.write_text(json.dumps(truth))
    results = Results.open(output, {}, selection or MaskSelection())
    return evaluate(results, EvaluationSettings(ground_truth=str(place), **settings))


def by_pycocotools(masks, truth, kind, *, use_cats=False, rank="predicted_iou"):
    """The figures as pycocotools has them, by the names of ours."""
    results = []
    for number, some in enumerate(masks):
        for mask in some:
            x, y, w, h = mask["bbox"]
            # Without categories too it leaves out masks of one that the file does not have.
            result = {"image_id": 11 + number, "category_id": mask["category_id"] if use_cats else 1}
            result["score"] = float(np.float32(mask[rank]))
            shape = {"segmentation": mask["segmentation"]} if kind == "mask" else {"bbox": [x, y, w + 1, h + 1]}
            results.append(result | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(truth))
        gt.createIndex()
        for each in gt.dataset["annotations"]:
            each["segmentation"] = gt.annToRLE(each)
        evaluator = COCOeval(gt, gt.loadRes(results), "segm" if kind == "mask" else "bbox")
        evaluator.params.useCats = int(use_cats)
        evaluator.params.maxDets = [1, 10, 100, 1000]
        evaluator.evaluate()
        evaluator.accumulate()

    def mean(values):
        return float(values[values > -1].mean()) if (values > -1).any() else None

    precision, recall = evaluator.eval["precision"][..., 2], evaluator.eval["recall"]
    found = {"AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0])}
    for place, size in enumerate(("", "_small", "_medium", "_large")):
        found[f"AP{size}"] = mean(precision[..., place])
        for column, most in enumerate((1, 10, 100, 1000)):
            found[f"AR@{most}{size}"] = mean(recall[..., place, column])
    return found
