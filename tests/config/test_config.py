import dataclasses
import json

import pytest

from sam_pipeline.config import (
    AnnotateConfig,
    MaskConfig,
    ModelConfig,
    PoolConfig,
)
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.config.fingerprint import PREPROCESSING_VERSION, fingerprint
from sam_pipeline.errors import ConfigError
from tests.configs import annotate_config, plan_config


def changed(settings):
    """Each field of a frozen dataclass with another valid value: name → instance."""
    other = {"crop_overlap_ratio": 0.25, "stability_score_offset": 2.0}
    return {
        item.name: dataclasses.replace(
            settings,
            **{item.name: other.get(item.name, 0.5 if isinstance(item.default, float) else item.default + 1)},
        )
        for item in dataclasses.fields(settings)
    }


def fingerprint_of(config, **changes):
    resolved = {"precision": "fp32", "weights_sha256": "aa", "schema_version": 1, "mode": "grid"}
    resolved |= {"prompts_sha256": None, "point_grid_sha256": None} | changes
    return fingerprint(config, **resolved)


@pytest.mark.parametrize(
    ("name", "values", "requirement"),
    [
        ("points_per_side", [0, -1], "at least 1"),
        ("points_per_batch", [0, -1], "at least 1"),
        ("crop_n_points_downscale_factor", [0, -2], "at least 1"),
        ("crop_n_layers", [-1], "at least 0"),
        ("points_per_side", [1025, 10**9], r"at most 1024 \(a million prompts\)"),
        ("crop_n_layers", [5, 99], r"at most 4 \(341 crops an image\)"),
        ("min_mask_region_area", [-1], "at least 0"),
        ("stability_score_offset", [-0.1, float("nan")], "at least 0"),
        ("pred_iou_thresh", [-0.1, 1.1, float("nan")], r"in \[0, 1\]"),
        ("stability_score_thresh", [-0.1, 1.1, float("nan")], r"in \[0, 1\]"),
        ("box_nms_thresh", [-0.1, 1.1, float("nan")], r"in \[0, 1\]"),
        ("crop_nms_thresh", [-0.1, 1.1, float("nan")], r"in \[0, 1\]"),
        ("crop_overlap_ratio", [-0.1, 1, 1.5, float("nan")], r"in \[0, 1\)"),
    ],
)
def test_a_mask_setting_out_of_range_is_named_with_its_value_and_its_range(name, values, requirement):
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{name} must be {requirement}, got {value}$"):
            MaskConfig(**{name: value})


@pytest.mark.parametrize("name", ["commit_interval_s", "stall_timeout_s", "image_timeout_s", "worker_memory_gb"])
def test_what_is_no_number_is_above_nothing(name):
    with pytest.raises(ConfigError, match=f"^{name} must be above 0, got nan$"):
        annotate_config(output="out", **{name: float("nan")})


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("min_score", float("nan")), ("min_score", float("inf"))])
def test_a_choice_that_cannot_be_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        plan_config(output="out", prompts="p", **{name: value})


def test_the_ends_of_each_range_are_allowed():
    for value in (0, 1):
        MaskConfig(pred_iou_thresh=value, stability_score_thresh=value, box_nms_thresh=value, crop_nms_thresh=value)
    MaskConfig(points_per_side=1, points_per_batch=1, stability_score_offset=0, crop_overlap_ratio=0)
    MaskConfig(crop_n_layers=4)


def test_a_grid_that_would_have_no_points_in_the_last_crop_layer_is_refused():
    MaskConfig(points_per_side=8, crop_n_layers=3, crop_n_points_downscale_factor=2)
    with pytest.raises(ConfigError, match=r"points_per_side must be at least .* = 8, got 7"):
        MaskConfig(points_per_side=7, crop_n_layers=3, crop_n_points_downscale_factor=2)


POOL_TEXTS = {"encode_on": "accelerator_type:H100", "decode_on": "small"}
POOL_AMOUNTS = {item.name for item in dataclasses.fields(PoolConfig)} - {*POOL_TEXTS}


@pytest.mark.parametrize("name", sorted(POOL_AMOUNTS))
def test_a_pool_setting_that_is_not_above_zero_is_named(name):
    for value in (0, -1):
        with pytest.raises(ConfigError, match=f"^{name} must be above 0, got {value}$"):
            PoolConfig(**{name: value})
    beside = {"gpus": 1} if name == "min_gpus" else {}
    assert getattr(PoolConfig(**(beside | {name: 1})), name) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encode_on": "large"}, "encode_on and decode_on go together"),
        ({"decode_on": "small"}, "encode_on and decode_on go together"),
        ({"gpus": 2, "encode_actors": 2}, "leave out encode_actors"),
        ({"gpus": 2, "decode_actors": 2}, "leave out decode_actors"),
        ({"gpus": 2, "encode_on": "a", "decode_on": "b"}, "leave out encode_on"),
        ({"min_gpus": 1}, "min_gpus is 1: give as many gpus, or more"),
        ({"min_gpus": 3, "gpus": 2}, "min_gpus is 3: give as many gpus, or more"),
    ],
)
def test_pool_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PoolConfig(**settings)


def test_gpus_are_not_asked_for_where_none_is_used():
    with pytest.raises(ConfigError, match="gpus asks for GPUs and device cpu uses none"):
        AnnotateConfig(output="out", model=ModelConfig(device="cpu"), pools=PoolConfig(gpus=2))


@pytest.mark.parametrize("name", ["max_pixels", "commit_interval_s", "stall_timeout_s", "num_cpus"])
def test_a_run_setting_that_is_not_above_zero_is_named(name):
    for value in (0, -1):
        with pytest.raises(ConfigError, match=f"^{name} must be above 0, got {value}$"):
            annotate_config(output="out", **{name: value})


SECONDS_AND_SHARES = ["commit_interval_s", "stall_timeout_s", "image_timeout_s", "worker_memory_gb", "encode_cpus"]
COUNTS = ["num_cpus", "threads", "shard_rows", "encode_actors"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in SECONDS_AND_SHARES for value in (float("inf"), 1e300, 10**400)),
        *((name, 10**400) for name in COUNTS),
    ],
    ids=lambda value: f"{value:.0e}" if isinstance(value, float) else str(value)[:30],
)
def test_an_amount_that_no_clock_or_counter_holds_is_named(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be at most 1000000000, got "):
        settings_by_name(AnnotateConfig, {"output": "out", name: value})


def test_a_shift_of_the_threshold_is_finite():
    with pytest.raises(ConfigError, match=r"^stability_score_offset must be finite, got inf$"):
        MaskConfig(stability_score_offset=float("inf"))


def test_a_credential_among_the_storage_options_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="storage option 'sas' is not known, or holds a credential") as error:
        plan_config(output="out", storage_options={"sas": "canary"})
    assert "canary" not in str(error.value)


@pytest.mark.parametrize("name", ["output", "input", "image_root", "prompts", "regions", "point_grid"])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_place_is_refused(name, empty):
    with pytest.raises(ConfigError, match=f"{name} must be a path or URI"):
        annotate_config(**{"output": "out", name: empty})


def test_an_empty_checkpoint_is_refused():
    with pytest.raises(ConfigError, match="checkpoint must be a path or URI"):
        AnnotateConfig(output="out", model=ModelConfig(checkpoint=""))


def test_settings_cannot_be_changed_after_they_were_checked():
    for config in (MaskConfig(), PoolConfig(), ModelConfig(), plan_config(output="out"), AnnotateConfig(output="out")):
        name = dataclasses.fields(config)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, None)


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(MaskConfig)])
def test_every_mask_setting_is_pinned_but_the_one_that_only_divides_the_work(name):
    before = fingerprint_of(AnnotateConfig(output="out"))
    after = fingerprint_of(AnnotateConfig(output="out", masks=changed(MaskConfig())[name]))
    differing = {key for key in before | after if before.get(key) != after.get(key)}
    assert differing == (set() if name == "points_per_batch" else {name})


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"weights_sha256": "bb"}, {"schema_version": 2}])
def test_precision_weights_and_schema_are_pinned(changes):
    before, after = (
        fingerprint_of(AnnotateConfig(output="out")),
        fingerprint_of(AnnotateConfig(output="out"), **changes),
    )
    assert {key for key in before if before[key] != after[key]} == changes.keys()


def test_the_size_limit_the_model_and_the_preprocessing_are_pinned():
    pinned = fingerprint_of(AnnotateConfig(output="out", max_pixels=5, model=ModelConfig(model_type="vit_b")))
    assert (pinned["max_pixels"], pinned["model_type"]) == (5, "vit_b")
    assert pinned["preprocessing_version"] == PREPROCESSING_VERSION


def test_the_default_model_is_pinned_by_its_name():
    default, named = (
        fingerprint_of(AnnotateConfig(output="out", model=ModelConfig(model_type=name)))
        for name in ("default", "vit_h")
    )
    assert default == named


def test_what_divides_the_work_and_where_it_lies_is_not_pinned():
    pools = PoolConfig(**dict.fromkeys(POOL_AMOUNTS - {"gpus", "min_gpus"}, 2), **POOL_TEXTS)
    model = ModelConfig(checkpoint="copy.pth", device="cuda", precision="bf16")  # precision is pinned as resolved
    places = {"output": "elsewhere", "input": "in", "storage_options": {"anon": True}}
    times = {"commit_interval_s": 1, "stall_timeout_s": 2, "num_cpus": 3}
    moved = annotate_config(**places, **times, model=model, pools=pools)
    assert fingerprint_of(moved) == fingerprint_of(AnnotateConfig(output="out"))


def test_a_fingerprint_survives_json():
    pinned = fingerprint_of(AnnotateConfig(output="out"))
    assert json.loads(json.dumps(pinned)) == pinned
