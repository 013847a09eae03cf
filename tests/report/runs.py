"""Runs made by hand whose masks differ in their scores, prompts and categories."""

from tests.storage.runs import FINGERPRINT, mask, plan, row, shard, take_over

GRID = FINGERPRINT | {
    "mode": "grid",
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.3,
    "box_nms_thresh": 1.0,
    "model_type": "vit_t",
    "max_pixels": 1 << 20,
}
PROMPTED = GRID | {"mode": "prompted"}

# 0.5 and 0.9 are thresholds too: whether they are above or at least that is the question.
SCORES = [(0.31, 0.99), (0.5, 0.5), (0.9, 0.95), (0.9049999, 0.955), (1.03, 1.0), (0.9, 0.9)]


def scored(seed, number):
    predicted_iou, stability_score = SCORES[number % len(SCORES)]
    return mask(seed) | {"predicted_iou": predicted_iou, "stability_score": stability_score}


def grid_rows():
    counts = [6, 0, 1, 3, 2]
    return [
        row(number, count, masks=[scored(10 * number + each, number + each) for each in range(count)])
        for number, count in enumerate(counts)
    ]


def prompt(number, **changes):
    fields = {"prompt_id": number, "prompt_box": [1.0, 1.0, 6.0, 5.0], "point_labels": [], "category_id": number % 3}
    return fields | {"score": 0.25 * (number % 4)} | changes


def prompted_rows():
    rows = [
        row(number, 3, masks=[scored(10 * number + each, each) | prompt(number + each) for each in range(3)])
        for number in range(4)
    ]
    rows[2]["masks"][0] |= {"category_id": None, "prompt_box": None, "score": None}
    rows[3]["prompt_errors"] = [
        {"role": "prompt", "prompt_id": 71, "error": "the box [3, 4, 0, 9] has no area"},
        {"role": "prompt", "prompt_id": 72, "error": "the box [5, 4, 0, 2] has no area"},
        {"role": "region", "prompt_id": None, "error": "fewer than 3 points"},
    ]
    return rows


def write_run(output, rows, *, fingerprint=GRID, num_images=None):
    """A plan and a run of it in two commits, finished where there is a row for each planned image."""
    plan(output, len(rows) if num_images is None else num_images)
    table = take_over(output, fingerprint)
    half = (len(rows) + 1) // 2
    for part in (rows[:half], rows[half:]):
        if part:
            table.commit([shard(output, part)])
    return output
