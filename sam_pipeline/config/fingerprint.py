"""What decides the values of a run's results: pinned when it begins, and taken up by every later start."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from sam_pipeline.config import AnnotateConfig, MaskConfig
from sam_pipeline.config.base import setting_names, settings_by_name

PREPROCESSING_VERSION = 3
"""Raised whenever decoding, orientation or resizing of images changes the pixels that the encoder sees."""

_OF_THE_GRID = {*setting_names(MaskConfig)} - {"stability_score_offset"}
_OF_CROPS = {"crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor"}
_OF_THE_RUN = (*setting_names(MaskConfig), "max_pixels", "mode", "multimask_output", "model_type", "precision")
_DEFAULT_MODEL_TYPE = "vit_h"

logger = logging.getLogger(__name__)


def fingerprint(
    config: AnnotateConfig,
    *,
    mode: str,
    prompts_sha256: str | None,
    point_grid_sha256: str | None,
    precision: str,
    weights_sha256: str,
    schema_version: int,
) -> dict[str, Any]:
    """What decides the values of a run's results, by name; a resume must have the same.

    points_per_batch, pools and the like only divide the work, so they may change between starts.

    Args:
        config: the run's settings.
        mode: the resolved one, never "auto".
        prompts_sha256: of the prompts and regions that the run began with; None where there are none.
        point_grid_sha256: of a grid from a file.
        precision: the resolved one, never "auto".
        weights_sha256: of the checkpoint file.
        schema_version: of the results table.
    """
    masks = dataclasses.asdict(config.masks)
    del masks["points_per_batch"]
    model_type = _DEFAULT_MODEL_TYPE if config.model.model_type == "default" else config.model.model_type
    return {
        **masks,
        "max_pixels": config.max_pixels,
        "mode": mode,
        "multimask_output": config.multimask_output,
        "prompts_sha256": prompts_sha256,
        "point_grid_sha256": point_grid_sha256,
        "model_type": model_type,
        "precision": precision,
        "weights_sha256": weights_sha256,
        "schema_version": schema_version,
        "preprocessing_version": PREPROCESSING_VERSION,
    }


def filters_of(pinned: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run was filtered from and how, oldest first; nothing for a run that `annotate` made.

    Returns:
        `source`, the folder of the run that was filtered; `version` of its results; `selection`, settings by name.
    """
    return list(pinned.get("filters", ()))


def filter_command(last: Mapping[str, Any], output: str) -> str:
    """The command that made a filtered run.

    Args:
        last: the last of filters_of.
        output: folder of the filtered run.
    """
    return shlex.join(["sam-pipeline", "filter", last["source"], "--into", output, *selection_flags(last["selection"])])


def selection_flags(selection: Mapping[str, Any]) -> list[str]:
    """Settings of a selection that are not their default, as words of a command."""
    words = []
    for name, value in selection.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return words


def idle_settings(pinned: Mapping[str, Any]) -> set[str]:
    """Settings of a fingerprint without effect, such as those of a grid that is not used."""
    if pinned.get("mode") == "prompted":
        return _OF_THE_GRID | {"point_grid_sha256"}
    idle = {"multimask_output"} if pinned.get("mode") == "grid" else set()
    if pinned.get("point_grid_sha256") is not None:
        idle |= {"points_per_side", "crop_n_points_downscale_factor"}
    if pinned.get("crop_n_layers") == 0:
        # The threshold of crops is used once more, where small regions are removed.
        idle |= _OF_CROPS if pinned.get("min_mask_region_area") == 0 else _OF_CROPS - {"crop_nms_thresh"}
    return idle


def stored_settings(config: AnnotateConfig) -> str:
    """What a later start needs to know beside the fingerprint, as JSON: where weights and grid came from."""
    places = {"checkpoint": config.model.checkpoint, "point_grid": config.point_grid}
    return json.dumps({name: absolute_place(place) for name, place in places.items()})


def settings_of_run(config: AnnotateConfig, metadata: Mapping[str, str]) -> AnnotateConfig:
    """The settings of a start that goes on with a run: those that were not given are the run's own.

    Args:
        config: as given. A mode or precision of "auto" is one that was not given.
        metadata: of the results table.
    """
    begun_with, stored = json.loads(metadata["fingerprint"]), stored_places(metadata)
    run = {name: begun_with[name] for name in _OF_THE_RUN if name in begun_with} | stored
    if run.get("mode") != "both":
        run.pop("mode", None)  # "auto" finds the same mode, or another after --replan
    given = {
        name: value for name, value in config.given().items() if not (name in ("mode", "precision") and value == "auto")
    }
    _log_taken({name: value for name, value in run.items() if name not in given}, idle_settings(begun_with))
    return settings_by_name(AnnotateConfig, run | given)


def _log_taken(taken: Mapping[str, Any], idle: Collection[str]) -> None:
    defaults = AnnotateConfig(output="-").by_name() | {"model_type": _DEFAULT_MODEL_TYPE}
    told = [
        f"{name}={value!r}"
        for name, value in taken.items()
        if value != defaults[name] and name not in ("mode", "precision", *idle)
    ]
    if told:
        logger.info("going on with the run's own settings: %s", ", ".join(told))


def stored_places(metadata: Mapping[str, str]) -> dict[str, str]:
    """Where the checkpoint and the point grid of a run are, if it began with any; metadata as for settings_of_run."""
    stored = json.loads(metadata.get("config", "{}"))
    found = {
        "checkpoint": stored.get("checkpoint", stored.get("model", {}).get("checkpoint")),
        "point_grid": stored.get("point_grid"),
    }
    return {name: value for name, value in found.items() if value is not None}


def absolute_place(uri: str | None) -> str | None:
    """A path from the root, so that a later start finds it from any folder; a URI as it is."""
    return uri if uri is None or "://" in uri else os.path.abspath(uri)
