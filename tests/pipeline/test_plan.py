import logging

import pytest

from sam_pipeline.errors import ConfigError, FencedError, InputError, OutputError
from sam_pipeline.pipeline import plan as plan_module
from sam_pipeline.pipeline.plan import ensure_plan, sample_images
from sam_pipeline.storage.inputs.list_input import list_input
from sam_pipeline.storage.tables.plan import Plan, confirm_plan, read_plan, read_planned
from sam_pipeline.storage.tables.results import delete_rows
from tests.configs import plan_config
from tests.storage import runs
from tests.storage.image_files import noise, saved


@pytest.fixture
def folder(tmp_path):
    """An input of three images."""
    for name in ("b.jpg", "a.png", "sub/c.webp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(noise(4, 5), "PNG"))
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def test_the_input_is_listed_once_and_frozen(folder, output):
    made = ensure_plan(plan_config(output=output, input=str(folder)))
    assert made == Plan(output, str(folder), 3)
    (folder / "late.jpg").write_bytes(b"late")
    assert ensure_plan(plan_config(output=output, input=str(folder))) == made
    planned = read_planned(output, range(0, 10), {}).to_pylist()
    assert [(row["image_id"], row["uri"]) for row in planned] == [
        (index, f"file://{folder}/{name}") for index, name in enumerate(["a.png", "b.jpg", "sub/c.webp"])
    ]


def test_what_a_frozen_plan_does_not_follow_is_said(folder, output, caplog):
    caplog.set_level(logging.INFO)
    ensure_plan(plan_config(output=output, input=str(folder)))
    ensure_plan(plan_config(output=output, input=str(folder)))
    assert "is frozen" not in caplog.text
    assert ensure_plan(plan_config(output=output, include=("*.png",), limit=1)).num_images == 3
    assert "is frozen with 3 images; given now, and not followed: include, limit" in caplog.text


def test_a_plan_is_found_without_naming_its_input_and_after_the_input_is_gone(folder, output):
    made = ensure_plan(plan_config(output=output, input=str(folder)))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    assert ensure_plan(plan_config(output=output)) == made
    assert ensure_plan(plan_config(output=output, input=str(folder))) == made


def test_other_spellings_of_the_same_input_and_output_are_the_same_plan(folder, output, monkeypatch):
    made = ensure_plan(plan_config(output=output, input=str(folder)))
    monkeypatch.chdir(folder.parent)
    for spelling in ("in", "./in/", f"file://{folder}", f"{folder}/"):
        assert ensure_plan(plan_config(output="run", input=spelling)) == made
        assert ensure_plan(plan_config(output=f"file://{output}/", input=spelling)) == made


def test_another_input_for_a_planned_output_is_refused(folder, output, tmp_path):
    ensure_plan(plan_config(output=output, input=str(folder)))
    with pytest.raises(
        ConfigError, match=rf"was planned from {folder}, not {tmp_path}; use another --output, or --replan"
    ):
        ensure_plan(plan_config(output=output, input=str(tmp_path)))


def replanned(output, folder, **settings):
    return ensure_plan(plan_config(output=output, input=str(folder), replan=True, **settings))


@pytest.fixture
def other(tmp_path):
    """Another input, of one image."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.png").write_bytes(saved(noise(4, 5), "PNG"))
    return tmp_path / "other"


def test_a_plan_without_results_is_made_anew(folder, other, output):
    ensure_plan(plan_config(output=output, input=str(folder)))
    made = replanned(output, other)
    assert (
        made
        == Plan(output, str(other), 1, generation=2)
        == ensure_plan(plan_config(output=output))
        == read_plan(output, {})
    )
    (row,) = read_planned(output, range(9), {}).to_pylist()
    assert (row["image_id"], row["uri"]) == (0, f"file://{other}/x.png")
    assert replanned(output, folder, limit=2).num_images == 2
    assert replanned(f"{output}-2", folder) == Plan(f"{output}-2", str(folder), 3), "where there was none it is made"


def test_a_plan_whose_run_began_and_left_no_row_is_made_anew_and_the_run_is_stopped(folder, other, output):
    ensure_plan(plan_config(output=output, input=str(folder)))
    begun = runs.take_over(output)
    assert replanned(output, other).num_images == 1
    with pytest.raises(FencedError):
        begun.commit([runs.shard(output, [runs.row(0)])])
    # What was begun with other settings goes on with those of now.
    others = runs.FINGERPRINT | {"points_per_side": 1}
    runs.take_over(output, others).commit([runs.shard(output, [runs.row(0)])])


def test_a_plan_with_results_stays_and_its_run_is_not_disturbed(folder, other, output):
    made = ensure_plan(plan_config(output=output, input=str(folder)))
    begun = runs.take_over(output)
    begun.commit([runs.shard(output, [runs.row(0)])])
    with pytest.raises(ConfigError, match="has results of 1 images, so its plan stays: leave --replan out to go on"):
        replanned(output, other)
    begun.commit([runs.shard(output, [runs.row(1)])])
    assert read_plan(output, {}) == made
    delete_rows(output, ["ok"], {})
    assert replanned(output, other).num_images == 1


def test_results_that_come_while_the_input_is_listed_keep_the_plan(folder, other, output, monkeypatch):
    made = ensure_plan(plan_config(output=output, input=str(folder)))
    begun = runs.take_over(output)

    def list_and_commit(config):
        begun.commit([runs.shard(output, [runs.row(0)])])
        return list_input(config)

    monkeypatch.setattr(plan_module, "list_input", list_and_commit)
    with pytest.raises(ConfigError, match="has results of 1 images"):
        replanned(output, other)
    assert read_plan(output, {}) == made


def test_a_run_that_begins_while_the_plan_is_made_anew_keeps_it(folder, other, output, monkeypatch):
    made = ensure_plan(plan_config(output=output, input=str(folder)))

    def list_while_another_begins(config):
        runs.take_over(output)
        confirm_plan(made, {})
        return list_input(config)

    monkeypatch.setattr(plan_module, "list_input", list_while_another_begins)
    with pytest.raises(FencedError, match="or has begun with it"):
        replanned(output, other)
    assert read_plan(output, {}) == made


def test_an_input_of_which_nothing_can_be_used_leaves_the_plan_as_it_is(folder, output, tmp_path):
    made = ensure_plan(plan_config(output=output, input=str(folder)))
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match="it is empty"):
        replanned(output, tmp_path / "broken.png")
    assert read_plan(output, {}) == made


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"input": None}, "say which images with --input"), ({"extend": True}, "give one of them")],
)
def test_a_plan_is_made_anew_of_an_input_and_not_extended_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_config(**{"output": "run", "input": "in", "replan": True} | settings)


def test_without_a_plan_an_input_is_needed(output):
    with pytest.raises(ConfigError, match="has no plan yet: say which images with --input"):
        ensure_plan(plan_config(output=output))


@pytest.mark.parametrize("name", ["none", "empty"])
def test_an_input_without_images_leaves_nothing_behind(tmp_path, output, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        ensure_plan(plan_config(output=output, input=str(tmp_path / name)))
    assert read_plan(output, {}) is None
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_an_output_error(folder):
    with pytest.raises(OutputError, match="cannot use output"):
        ensure_plan(plan_config(output=str(folder / "a.png" / "run"), input=str(folder)))


def test_files_that_were_passed_over_are_mentioned(folder, output, caplog):
    (folder / "notes.txt").touch()
    with caplog.at_level(logging.INFO, logger="sam_pipeline"):
        ensure_plan(plan_config(output=output, input=str(folder)))
    assert caplog.messages == ["skipped 1 files that are not images"]


@pytest.mark.parametrize(
    ("num_images", "sampled"),
    [(1, [0]), (7, list(range(7))), (21, [*range(19), 20]), (39, list(range(0, 39, 2))), (96, list(range(0, 96, 5)))],
)
def test_at_most_twenty_images_spread_over_the_plan_are_sampled(tmp_path, num_images, sampled):
    made = runs.plan(str(tmp_path), num_images)
    assert [image.uri for image in sample_images(made, {})] == [f"file:///in/{index:04}.jpg" for index in sampled]
    assert next(sample_images(made, {})).etag == "etag-0"
