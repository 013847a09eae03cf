"""Names that users, settings files and stored tables rely on: they may be added to, but never change."""

import json
import re

import pytest

from sam_pipeline.cli.commands import main
from sam_pipeline.config import AnnotateConfig, EstimateConfig, PlanConfig
from sam_pipeline.config.base import setting_names
from sam_pipeline.config.fingerprint import fingerprint, stored_settings
from sam_pipeline.config.keywords import AnnotateSettings, EstimateSettings

PLAN = (
    "output input input_format input_column image_root keep include exclude limit sample seed allow_http extend "
    "redo_changed replan prompts prompt_images bbox_format min_score regions storage_options"
)
GRID = (
    "points_per_side pred_iou_thresh stability_score_thresh stability_score_offset box_nms_thresh crop_n_layers "
    "crop_nms_thresh crop_overlap_ratio crop_n_points_downscale_factor min_mask_region_area"
)
RUN = (
    "points_per_batch mode multimask_output point_grid max_pixels commit_interval_s stall_timeout_s image_timeout_s "
    "worker_memory_gb max_restarts num_cpus model_type checkpoint device precision encode_actors decode_actors "
    "encode_batch_size encode_cpus decode_cpus encode_gpus decode_gpus read_cpus threads shard_rows gpus min_gpus "
    "gpu_wait_s encode_on decode_on"
)
ANNOTATE = {*PLAN.split(), *GRID.split(), *RUN.split()}
PRICES = {"price_node_hour", "price_put_1000", "price_get_1000", "price_gb_month"}
PINNED = (
    "max_pixels mode multimask_output prompts_sha256 point_grid_sha256 model_type precision weights_sha256 "
    "schema_version preprocessing_version"
)


@pytest.mark.parametrize(
    ("command", "settings_class", "names", "others"),
    [("plan", EstimateConfig, ANNOTATE | PRICES, {"estimate", "json"}), ("annotate", AnnotateConfig, ANNOTATE, set())],
)
def test_flags_and_keys_of_files_are_the_names_of_settings(capsys, monkeypatch, command, settings_class, names, others):
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    flags = re.findall(r"^ +(?:-h, )?--(\w[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert {flag.replace("-", "_") for flag in flags} == names | others | {"help"}
    assert set(setting_names(settings_class)) == names


def test_settings_of_a_plan_alone():
    assert set(setting_names(PlanConfig)) == {*PLAN.split()}


def test_keywords_are_the_names_of_settings():
    assert AnnotateSettings.__annotations__.keys() == ANNOTATE
    assert EstimateSettings.__annotations__.keys() == ANNOTATE | PRICES


def test_the_names_that_are_stored():
    config = AnnotateConfig(output="out")
    resolved = {"mode": "grid", "prompts_sha256": None, "point_grid_sha256": None, "precision": "fp32"}
    pinned = fingerprint(config, **resolved, weights_sha256="aa", schema_version=1)
    assert pinned.keys() == {*GRID.split(), *PINNED.split()}
    assert json.loads(stored_settings(config)).keys() == {"checkpoint", "point_grid"}
