"""The figures of a run as lines of text: what `stats` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sam_pipeline.cli.output.printing import column_lines, statuses_text
from sam_pipeline.report.counting.distributions import Distribution
from sam_pipeline.report.counting.error_groups import ErrorGroup
from sam_pipeline.report.counting.threshold_curves import ThresholdCurve
from sam_pipeline.report.statistics import RunStatistics, chosen_by

_MOST_CATEGORIES = 20
_MOST_ERRORS = 10
_CURVE_STEPS = 10


def statistics_lines(found: RunStatistics, output: str) -> Iterator[str]:
    """Lines to print; output is the run's name as the user gave it."""
    rows: list[Sequence[str]] = [("output", output)]
    rows.append(("images", f"{found.num_images} ({statuses_text(found.num_by_status) or 'none done'})"))
    if left := found.num_planned - found.num_done:
        rows.append(("left to do", f"{left} of {found.num_planned}"))
    rows += [("filtered from", f"{each['source']} by {chosen_by(each['selection'])}") for each in found.filters]
    if found.selection:
        rows.append(("selection", chosen_by(found.selection)))
    rows += [("masks", str(found.num_masks)), ("ok without masks", str(found.num_without_masks))]
    yield from column_lines(rows)
    if found.num_masks:
        yield ""
        yield from column_lines(_distribution_rows(found), numbers_from=1)
        for curve in found.curves:
            yield ""
            yield from column_lines(_curve_rows(curve, found), numbers_from=0)
    if found.categories:
        yield ""
        yield from column_lines(_category_rows(found))
    for title, groups in (("error", found.errors), ("prompt error", found.prompt_errors)):
        if groups:
            yield ""
            yield from column_lines(_error_rows(title, groups))


def _distribution_rows(found: RunStatistics) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", "mean", "min", "5 %", "median", "95 %", "max")]
    named: list[tuple[str, Distribution, str]] = [
        ("masks per image", found.masks_per_image, ",.1f"),
        ("area (pixels)", found.area, ",.0f"),
        ("predicted IoU", found.predicted_iou, ",.3f"),
        ("stability score", found.stability_score, ".3f"),
        ("coverage", found.coverage, ",.1%"),
        ("detector's score", found.score, ",.3f"),
        ("IoU with prompt box", found.box_iou, ".3f"),
    ]
    for name, values, form in named:
        if values.num:
            numbers = (values.mean, values.min, values.p05, values.median, values.p95, values.max)
            rows.append((name, *(format(number, form) for number in numbers if number is not None)))
    return rows


def _curve_rows(curve: ThresholdCurve, found: RunStatistics) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [(curve.setting, "masks kept", "share", "images with a mask")]
    # From the last threshold that keeps all masks to the first that keeps none.
    first = sum(count == curve.num_masks[0] for count in curve.num_masks) - 1
    last = min(len(curve.thresholds) - 1, sum(count > 0 for count in curve.num_masks))
    step = max(1, (last - first) // _CURVE_STEPS)
    for number in range(first, last + 1, step):
        kept = curve.num_masks[number]
        share = f"{kept / found.num_masks:.1%}"
        rows.append((f"{curve.thresholds[number]:g}", str(kept), share, str(curve.num_images[number])))
    return rows


def _category_rows(found: RunStatistics) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("category", "masks", "images")]
    for each in found.categories[:_MOST_CATEGORIES]:
        rows.append((f"{each.category_id} {each.name}", str(each.num_masks), str(each.num_images)))
    if more := len(found.categories) - _MOST_CATEGORIES:
        rows += [(f"… and {more} more", "", "")] if more > 0 else []
    return rows


def _error_rows(title: str, groups: Sequence[ErrorGroup]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("number", "kind", title, "for example")]
    for group in groups[:_MOST_ERRORS]:
        rows.append((str(group.num), group.status, group.message, f"image {group.image_id}, {group.uri}"))
    if (more := len(groups) - _MOST_ERRORS) > 0:
        rows.append(("…", "", f"and {more} more messages", ""))
    return rows
