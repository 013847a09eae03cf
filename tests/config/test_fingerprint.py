"""What of a run's settings is pinned, what of it decides anything, and what a later start takes over."""

import dataclasses
import json
import os

import pytest

from sam_pipeline.config import AnnotateConfig, MaskConfig, ModelConfig
from sam_pipeline.config.fingerprint import fingerprint, idle_settings, settings_of_run, stored_places, stored_settings
from sam_pipeline.errors import FingerprintMismatchError
from sam_pipeline.storage.tables.reading.run_header import check_fingerprint
from tests.configs import annotate_config

CROPS = ("crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor")
OTHER = {
    "points_per_side": 7,
    "pred_iou_thresh": 0.5,
    "stability_score_thresh": 0.5,
    "stability_score_offset": 2.0,
    "box_nms_thresh": 0.5,
    "crop_n_layers": 1,
    "crop_nms_thresh": 0.5,
    "crop_overlap_ratio": 0.25,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 5,
    "multimask_output": True,
}


def pinned(mode="grid", point_grid_sha256=None, **settings):
    masks = {name: value for name, value in settings.items() if name != "multimask_output"}
    config = annotate_config(
        output="out", masks=MaskConfig(**masks), multimask_output=settings.get("multimask_output", False)
    )
    resolved = {"precision": "fp32", "weights_sha256": "aa", "schema_version": 1, "prompts_sha256": None}
    return fingerprint(config, mode=mode, point_grid_sha256=point_grid_sha256, **resolved)


def test_the_mode_of_a_run_is_found_again_and_not_taken_over():
    # Results of another mode have no rows where prompts are frozen now: the plan was made anew.
    for mode in ("grid", "prompted"):
        resumed = settings_of_run(annotate_config(output="out", prompts="p.json"), metadata(BEGUN, mode))
        assert resumed.mode == "auto"


def differences(before, after):
    """Settings that a later start is refused for."""
    try:
        check_fingerprint(before, after)
    except FingerprintMismatchError as error:
        return set(error.differences)
    return set()


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize(
    ("run", "idle"),
    [
        ({"mode": "grid"}, {"multimask_output", *CROPS}),
        ({"mode": "grid", "crop_n_layers": 2}, {"multimask_output"}),
        ({"mode": "grid", "min_mask_region_area": 9}, {"multimask_output", *CROPS[1:]}),
        ({"mode": "grid", "point_grid_sha256": "bb"}, {"multimask_output", "points_per_side", *CROPS}),
        ({"mode": "both"}, {*CROPS}),
        ({"mode": "prompted"}, OTHER.keys() - {"stability_score_offset", "multimask_output"}),
    ],
    ids=lambda value: "+".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_decides_nothing_is_no_difference_and_what_decides_is_one(run, idle, name):
    assert idle_settings(pinned(**run)) - {"point_grid_sha256", "points_per_batch"} == set(idle)
    before, after = pinned(**run), pinned(**run | {name: OTHER[name]})
    assert differences(before, after) == differences(after, before) == (set() if name in idle else {name})


@pytest.mark.parametrize("name", ["mode", "max_pixels", "precision", "weights_sha256", "prompts_sha256", "model_type"])
def test_these_decide_in_every_mode(name):
    for mode in ("grid", "prompted", "both"):
        assert name in differences(pinned(mode), pinned(mode) | {name: "other"})


def metadata(config, mode="grid", precision="fp32"):
    begun_with = fingerprint(
        config,
        mode=mode,
        precision=precision,
        prompts_sha256=None,
        point_grid_sha256=None,
        weights_sha256="aa",
        schema_version=1,
    )
    return {"fingerprint": json.dumps(begun_with), "config": stored_settings(config)}


BEGUN = AnnotateConfig(
    output="out",
    max_pixels=99,
    multimask_output=True,
    model=ModelConfig(model_type="vit_t", checkpoint="weights/a.pth"),
    masks=MaskConfig(points_per_side=8, pred_iou_thresh=0.5),
    point_grid="s3://bucket/grid.json",
)


def test_what_is_not_given_is_taken_from_the_run():
    resumed = settings_of_run(AnnotateConfig(output="out", commit_interval_s=3), metadata(BEGUN, "both", "bf16"))
    assert resumed == dataclasses.replace(
        BEGUN,
        commit_interval_s=3,
        mode="both",
        model=ModelConfig(model_type="vit_t", checkpoint=os.path.abspath("weights/a.pth"), precision="bf16"),
    )


def test_what_is_given_stays_also_where_it_is_the_default():
    given = AnnotateConfig(
        output="out",
        max_pixels=100_000_000,
        multimask_output=False,
        masks=MaskConfig(points_per_side=32),
        model=ModelConfig(model_type="default", checkpoint=None),
    )
    resumed = settings_of_run(given, metadata(BEGUN))
    assert (resumed.max_pixels, resumed.multimask_output) == (100_000_000, False)
    assert (resumed.masks.points_per_side, resumed.masks.pred_iou_thresh) == (32, 0.5)
    assert (resumed.model.model_type, resumed.model.checkpoint) == ("default", None)


def test_auto_is_what_the_run_began_with():
    given = AnnotateConfig(output="out", mode="auto", model=ModelConfig(precision="auto"))
    resumed = settings_of_run(given, metadata(BEGUN, "both", "bf16"))
    assert (resumed.mode, resumed.model.precision) == ("both", "bf16")


def test_the_settings_of_the_run_are_said(caplog):
    with caplog.at_level("INFO", "sam_pipeline"):
        settings_of_run(AnnotateConfig(output="out", masks=MaskConfig(points_per_side=8)), metadata(BEGUN))
    (message,) = caplog.messages
    assert message.startswith("going on with the run's own settings: pred_iou_thresh=0.5, max_pixels=99, model_type")
    caplog.clear()
    with caplog.at_level("INFO", "sam_pipeline"):
        settings_of_run(AnnotateConfig(output="out"), metadata(AnnotateConfig(output="out")))
    assert caplog.messages == []


def test_only_places_are_stored_beside_the_fingerprint():
    config = annotate_config(output="out", input="in", storage_options={"endpoint_url": "http://host"}, point_grid="g")
    assert json.loads(stored_settings(config)) == {"checkpoint": None, "point_grid": os.path.abspath("g")}


def test_runs_that_stored_their_whole_configuration_are_understood():
    stored = json.dumps({"model": {"checkpoint": "w.pth"}, "point_grid": None, "input": "in"})
    assert stored_places({"config": stored}) == {"checkpoint": "w.pth"}
    assert stored_places({"config": "{}"}) == stored_places({}) == {}
