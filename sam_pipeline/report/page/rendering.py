"""The page: figures, charts and pictures of a run as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sam_pipeline.config.fingerprint import filters_of, idle_settings, selection_flags
from sam_pipeline.report.page import charts
from sam_pipeline.report.page.labels import place_labels
from sam_pipeline.report.page.number_text import counted, percent
from sam_pipeline.report.page.pictures import Picture
from sam_pipeline.report.statistics import RunStatistics, chosen_by
from sam_pipeline.results.review import FORMAT, VERSION
from sam_pipeline.safety.clean_text import printable
from sam_pipeline.version import __version__

GENERATOR = f"sam-pipeline {__version__}"

_NO_BREAK = "\N{NO-BREAK SPACE}"
_MOST_ERRORS = 20
_MOST_CATEGORIES = 40
_FRAME = {
    "width": charts.WIDTH,
    "height": charts.HEIGHT,
    "left": charts.LEFT,
    "right": charts.RIGHT,
    "top": charts.TOP,
    "bottom": charts.BOTTOM,
}


@dataclass(frozen=True)
class Page:
    """What a page shows."""

    statistics: RunStatistics
    settings: Mapping[str, Any]
    """The run's fingerprint."""
    places: Mapping[str, str]
    """Where the weights and the grid of the run were read from, by setting."""
    groups: Sequence[tuple[str, Sequence[tuple[Picture, str]]]]
    """Title, and pictures each with the name of the category for which it is shown, or an empty one."""
    is_review: bool
    made_at: datetime


def render(page: Page) -> str:
    """The page as HTML. Whatever comes from outside is shown as text."""
    stats = page.statistics
    css, js = _read("report.css"), _read("report.js")
    histograms, curves = _histograms(stats), _curves(stats, page.settings)
    pictures = [picture for _, pairs in page.groups for picture, _ in pairs]
    sections = [
        ("overview", "Overview", True),
        ("failures", "Failures", bool(stats.errors or stats.prompt_errors)),
        ("distributions", "Distributions", bool(histograms)),
        ("thresholds", "Thresholds", bool(curves)),
        ("categories", "Categories", bool(stats.categories)),
        ("gallery", "Gallery", bool(pictures)),
        ("settings", "Settings", True),
    ]
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            css=Markup(css),
            css_hash=_hash(css),
            js=Markup(js),
            js_hash=_hash(js),
            generator=GENERATOR,
            name=_file_name(stats.output) or stats.output,
            stats=stats,
            sections=[(key, title) for key, title, is_there in sections if is_there],
            notices=_notices(stats),
            facts=_facts(stats),
            histograms=histograms,
            curves=curves,
            frame=_FRAME,
            shell_output=shlex.quote(stats.output),
            shell_flags=_shell_flags(stats.selection),
            # The command of a curve gives the curve's own threshold itself.
            other_flags={each.flag: _shell_flags(stats.selection, without=each.flag) for each in curves},
            most_errors=_MOST_ERRORS,
            most_categories=_MOST_CATEGORIES,
            groups=[{"title": title, "pictures": pairs} for title, pairs in page.groups if pairs],
            has_labels=any(mask.label for picture in pictures for mask in picture.masks),
            has_prompt_boxes=any(mask.prompt_box_xywh for picture in pictures for mask in picture.masks),
            is_review=page.is_review,
            setting_tables=_setting_tables(page),
            made_at=page.made_at.isoformat(timespec="seconds"),
            made_at_text=f"{page.made_at:%Y-%m-%d %H:%M} UTC",
            page_data={
                "output": stats.output,
                "frame": _FRAME,
                "curves": {each.key: each.rows for each in curves},
                "review": {"format": FORMAT, "version": VERSION} if page.is_review else None,
                "images": {str(picture.image_id): picture.uri for picture in pictures},
            },
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sam_pipeline.report.page", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever is shown, before it is escaped.
        finalize=lambda value: _shown(value) if type(value) is str else value,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "counted": counted,
        "cut": _cut,
        "file_name": _file_name,
        "labels": place_labels,
    }
    return environment


def _shell_flags(selection: Mapping[str, Any], without: str = "") -> str:
    """The flags of a selection but for one, in a shell's words, each behind a space."""
    flags = [selection_flags({name: value}) for name, value in selection.items()]
    return "".join(f" {shlex.join(words)}" for words in flags if words[0] != without)


def _histograms(stats: RunStatistics) -> list[charts.Histogram]:
    def whole(value: float) -> str:
        return f"{value:,.0f}"

    def score(value: float) -> str:
        return f"{value:,.3f}".rstrip("0").rstrip(".")

    def share(value: float) -> str:
        return f"{100 * value:{',.0f' if value >= 1 else '.3g'}}{_NO_BREAK}%"

    overlapping = "Areas of masks added up, as a share of the image: above 100 % where masks lie in one another."
    found = [
        charts.histogram(
            "count", "Masks per image", "images", stats.masks_per_image, whole, is_whole=True, note=_empty_note(stats)
        ),
        charts.histogram("area", "Area in pixels", "masks", stats.area, whole, is_log=True),
        charts.histogram("coverage", "Coverage", "images", stats.coverage, share, note=overlapping),
        charts.histogram("iou", "Predicted IoU", "masks", stats.predicted_iou, score),
        charts.histogram("stability", "Stability score", "masks", stats.stability_score, score),
        charts.histogram("score", "Score of the detector", "masks", stats.score, score),
        charts.histogram("box", "IoU with the box of the prompt", "masks", stats.box_iou, score),
    ]
    return [each for each in found if each is not None] if stats.num_masks else []


def _empty_note(stats: RunStatistics) -> str:
    return f"{counted(stats.num_without_masks, 'image has', 'images have')} none." if stats.num_without_masks else ""


def _curves(stats: RunStatistics, settings: Mapping[str, Any]) -> list[charts.Curve]:
    with_masks = stats.masks_per_image.num - stats.num_without_masks
    drawn = (
        charts.curve(each, with_masks, _least_threshold(settings, stats.selection, each.setting))
        for each in stats.curves
    )
    return [each for each in drawn if each is not None]


def _least_threshold(settings: Mapping[str, Any], selection: Mapping[str, Any], name: str) -> float | None:
    """What all masks of a page have passed: by settings of the run, filters and the selection; None where nothing."""
    # Masks of prompts pass no threshold, but for those of filters.
    asked = [settings.get(name) if settings.get("mode") != "prompted" else None]
    asked += [each["selection"].get(name) for each in filters_of(settings)]
    asked.append(selection.get(name))
    return max((value for value in asked if value is not None), default=None)


def _facts(stats: RunStatistics) -> list[tuple[str, str, str]]:
    num_ok = stats.num_by_status.get("ok", 0)
    failed = stats.num_images - num_ok
    facts = [
        ("Images", f"{stats.num_images:,}", f"of {stats.num_planned:,} planned"),
        ("Annotated", f"{num_ok:,}", percent(num_ok / stats.num_images) if stats.num_images else ""),
        ("Failed", f"{failed:,}", counted(len(stats.errors), "kind of error", "kinds of error") if failed else ""),
        ("Masks", f"{stats.num_masks:,}", ""),
    ]
    if stats.masks_per_image.num and stats.masks_per_image.median is not None:
        spread = stats.masks_per_image
        facts.append(("Masks per image", f"{spread.median:,.0f}", f"median; mean {spread.mean:,.1f}"))
        facts.append(("Without a mask", f"{stats.num_without_masks:,}", "annotated images"))
    return facts


def _notices(stats: RunStatistics) -> list[str]:
    notices = []
    if left := stats.num_planned - stats.num_done:
        notices.append(
            f"This run is not finished: {left:,} of {stats.num_planned:,} images are left. The page shows what is "
            "committed."
        )
    notices += [f"Filtered from {each['source']} by {chosen_by(each['selection'])}." for each in stats.filters]
    if stats.selection:
        notices.append(f"Not all masks of the run: chosen by {chosen_by(stats.selection)}.")
    if stats.num_images and not stats.num_by_status.get("ok"):
        notices.append("No image could be annotated; the errors are below.")
    elif stats.num_images and not stats.num_masks:
        notices.append("There is no mask.")
    elif not stats.num_images:
        notices.append("There is no image to show.")
    return notices


def _setting_tables(page: Page) -> list[tuple[str, list[tuple[str, str]]]]:
    idle = idle_settings(page.settings)
    of_model = ("model_type", "weights_sha256", "precision")
    model = [(name, _value(page.settings[name])) for name in of_model if name in page.settings]
    model += list(page.places.items())
    rest = [
        (name, _value(value))
        for name, value in sorted(page.settings.items())
        if name not in (*of_model, "filters", *idle) and value is not None
    ]
    tables = [("Weights", model), ("What decides the masks (fingerprint)", rest)]
    return [(title, rows) for title, rows in tables if rows]


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _file_name(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _shown(text: str) -> str:
    """Text without control characters and marks that turn text around; the spaces between number and unit stay."""
    return _NO_BREAK.join(map(printable, text.split(_NO_BREAK)))


def _cut(text: str, most: int) -> str:
    """A text in as many letters as there is room for: its beginning and its end."""
    if len(text) <= most:
        return text
    end = most // 3
    return text[: most - end - 1] + "…" + text[-end:]


def _read(name: str) -> str:
    return (files("sam_pipeline.report.page") / "template" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a browser compares an inline style or script with, before it obeys it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
