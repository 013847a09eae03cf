"""What a start takes from the run it goes on with, what it refuses, and what it does not fetch. No Ray: all is done."""

import logging

import pytest

from sam_pipeline.cli.commands import main
from sam_pipeline.config import MaskConfig, ModelConfig
from sam_pipeline.config.fingerprint import fingerprint, stored_settings
from sam_pipeline.errors import CheckpointError, FingerprintMismatchError
from sam_pipeline.model import checkpoints
from sam_pipeline.model.checkpoints import official_sha256, sha256_of
from sam_pipeline.pipeline import annotate as annotate_module
from sam_pipeline.pipeline.annotate import annotate
from sam_pipeline.storage.prompts.point_grid_files import read_point_grids
from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.schema import SCHEMA_VERSION
from tests.configs import annotate_config
from tests.storage.runs import plan, row, shard


class Prepared(Exception):  # noqa: N818  not an error
    """A start that would go on: with this model."""


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    """Nothing is in the cache, and whatever is fetched is a failure; a start that has work stops before Ray."""
    monkeypatch.setenv("SAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("sam_pipeline"), "level", logging.NOTSET)
    monkeypatch.setattr(checkpoints, "download", lambda *arguments, **options: pytest.fail("weights were fetched"))

    def prepare(run):
        raise Prepared(run.config.model.model_type, run.config.model.checkpoint, run.weights_sha256)

    monkeypatch.setattr(annotate_module, "prepare_weights", prepare)


@pytest.fixture
def begin(tmp_path):
    """Begin a run with settings, with two of num_images done; returns its output."""

    def begin(num_images=2, mode="grid", weights_sha256=None, **settings):
        config = annotate_config(output=str(tmp_path / "run"), **settings)
        grid = None if config.point_grid is None else read_point_grids(config.point_grid, 1, {}).sha256
        pinned = fingerprint(
            config,
            mode=mode,
            prompts_sha256=None,
            point_grid_sha256=grid,
            precision="fp32",
            weights_sha256=weights_sha256 or official_sha256(config.model.model_type),
            schema_version=SCHEMA_VERSION,
        )
        plan(config.output, num_images)
        table = MaskTable.take_over(config.output, pinned, {"config": stored_settings(config)}, {})
        table.commit([shard(config.output, [row(0), row(1)])])
        return config.output

    return begin


SETTINGS = {"masks": MaskConfig(points_per_side=8), "max_pixels": 99, "model": ModelConfig(model_type="vit_b")}


def run(output, **settings):
    return annotate(annotate_config(output=output, **settings), make_display=None)


def test_a_finished_run_ends_at_once_without_its_settings_and_without_weights(begin):
    summary = run(begin(**SETTINGS))
    assert (summary.outcome.num_images, summary.num_annotated, summary.outcome.num_by_status) == (2, 0, {"ok": 2})


def test_the_same_settings_end_a_finished_run_as_well(begin):
    assert run(begin(**SETTINGS), **SETTINGS).num_annotated == 0


def test_an_unfinished_run_goes_on_with_its_own_settings(begin):
    output = begin(num_images=3, **SETTINGS)
    for settings in ({}, SETTINGS, {"max_pixels": 99}):
        with pytest.raises(Prepared) as caught:
            run(output, **settings)
        assert caught.value.args == ("vit_b", None, official_sha256("vit_b"))


@pytest.mark.parametrize("num_images", [2, 3], ids=["finished", "unfinished"])
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"max_pixels": 5}, ["max_pixels"]),
        ({"max_pixels": 100_000_000}, ["max_pixels"]),
        ({"masks": MaskConfig(points_per_side=32)}, ["points_per_side"]),
        ({"masks": MaskConfig(points_per_side=8, pred_iou_thresh=0.5)}, ["pred_iou_thresh"]),
        ({"model": ModelConfig(model_type="default")}, ["model_type", "weights_sha256"]),
        ({"model": ModelConfig(precision="bf16")}, ["precision"]),
    ],
    ids=str,
)
def test_a_setting_that_differs_is_refused_also_where_it_is_the_default(begin, settings, names, num_images):
    output = begin(num_images=num_images, **SETTINGS)
    with pytest.raises(FingerprintMismatchError) as caught:
        run(output, **settings)
    assert caught.value.differences.keys() == set(names)


def test_what_decides_nothing_may_differ(begin):
    output = begin(**SETTINGS)
    masks = MaskConfig(points_per_batch=7, crop_overlap_ratio=0.1, crop_nms_thresh=0.5)
    assert run(output, multimask_output=True, masks=masks).num_annotated == 0


def test_a_run_that_was_only_planned_takes_what_is_given(tmp_path):
    output = str(tmp_path / "run")
    plan(output, 2)
    with pytest.raises(Prepared) as caught:
        run(output, **SETTINGS)
    assert caught.value.args[0] == "vit_b"


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"some weights")
    return path


def test_a_checkpoint_of_ones_own_is_remembered_and_not_needed_in_the_end(begin, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sha256 = sha256_of(checkpoint)
    model = ModelConfig(model_type="vit_t", checkpoint="weights.pth")
    output = begin(model=model, weights_sha256=sha256)
    checkpoint.unlink()
    assert run(output).num_annotated == 0
    assert run(output, model=model).num_annotated == 0
    other = tmp_path / "other.pth"
    other.write_bytes(b"others")
    with pytest.raises(FingerprintMismatchError) as caught:
        run(output, model=ModelConfig(checkpoint=str(other)))
    assert caught.value.differences == {"weights_sha256": (sha256, sha256_of(other))}
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        run(output, model=ModelConfig(checkpoint=str(tmp_path / "none.pth")))


def test_an_unfinished_run_goes_on_with_its_checkpoint(begin, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sha256 = sha256_of(checkpoint)
    model = ModelConfig(model_type="vit_t", checkpoint="weights.pth")
    output = begin(num_images=3, model=model, weights_sha256=sha256)
    monkeypatch.chdir("/")
    with pytest.raises(Prepared) as caught:
        run(output)
    assert caught.value.args == ("vit_t", str(checkpoint), sha256)


def test_the_official_weights_in_place_of_a_checkpoint_are_refused(begin, checkpoint):
    model = ModelConfig(model_type="vit_t", checkpoint=str(checkpoint))
    output = begin(model=model, weights_sha256=sha256_of(checkpoint))
    with pytest.raises(FingerprintMismatchError) as caught:
        run(output, model=ModelConfig(checkpoint=None))
    assert caught.value.differences.keys() == {"weights_sha256"}


def test_a_point_grid_is_remembered(begin, tmp_path):
    grid = tmp_path / "grid.json"
    grid.write_text("[[0.5, 0.5]]")
    output = begin(point_grid=str(grid))
    assert run(output).num_annotated == 0
    assert run(output, masks=MaskConfig(points_per_side=3)).num_annotated == 0
    grid.write_text("[[0.25, 0.5]]")
    with pytest.raises(FingerprintMismatchError) as caught:
        run(output)
    assert caught.value.differences.keys() == {"point_grid_sha256"}


@pytest.mark.parametrize(
    ("flags", "code"),
    [([], 0), (["--points-per-side", "8"], 0), (["--points-per-side", "32"], 2), (["--points-per-batch", "32"], 0)],
    ids=str,
)
def test_the_command_line_tells_a_flag_with_the_default_from_none(begin, capsys, flags, code):
    output = begin(**SETTINGS)
    with pytest.raises(SystemExit) as caught:
        main(["annotate", "--output", output, *flags])
    assert caught.value.code == code, capsys.readouterr().err
    if code:
        assert "points_per_side: 8 in the output, 32 now" in capsys.readouterr().err
