import logging

import pytest

from sam_pipeline.config import PlanConfig
from sam_pipeline.errors import ConfigError, InputError, OutputError
from sam_pipeline.pipeline.plan import ensure_plan, sample_images
from sam_pipeline.storage.plan_table import Plan, read_plan, read_planned
from tests.storage import runs


@pytest.fixture
def folder(tmp_path):
    """An input of three files that look like images."""
    for name in ("b.jpg", "a.png", "sub/c.webp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def test_the_input_is_listed_once_and_frozen(folder, output):
    made = ensure_plan(PlanConfig(output=output, input=str(folder)))
    assert made == Plan(output, str(folder), 3)
    (folder / "late.jpg").write_bytes(b"late")
    assert ensure_plan(PlanConfig(output=output, input=str(folder))) == made
    planned = read_planned(output, range(0, 10), {}).to_pylist()
    assert [(row["image_id"], row["uri"]) for row in planned] == [
        (index, f"file://{folder}/{name}") for index, name in enumerate(["a.png", "b.jpg", "sub/c.webp"])
    ]


def test_a_plan_is_found_without_naming_its_input_and_after_the_input_is_gone(folder, output):
    made = ensure_plan(PlanConfig(output=output, input=str(folder)))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    assert ensure_plan(PlanConfig(output=output)) == made
    assert ensure_plan(PlanConfig(output=output, input=str(folder))) == made


def test_other_spellings_of_the_same_input_and_output_are_the_same_plan(folder, output, monkeypatch):
    made = ensure_plan(PlanConfig(output=output, input=str(folder)))
    monkeypatch.chdir(folder.parent)
    for spelling in ("in", "./in/", f"file://{folder}", f"{folder}/"):
        assert ensure_plan(PlanConfig(output="run", input=spelling)) == made
        assert ensure_plan(PlanConfig(output=f"file://{output}/", input=spelling)) == made


def test_another_input_for_a_planned_output_is_refused(folder, output, tmp_path):
    ensure_plan(PlanConfig(output=output, input=str(folder)))
    with pytest.raises(ConfigError, match=rf"was planned from {folder}, not {tmp_path}; use another --output"):
        ensure_plan(PlanConfig(output=output, input=str(tmp_path)))


def test_without_a_plan_an_input_is_needed(output):
    with pytest.raises(ConfigError, match="has no plan yet: say which images with --input"):
        ensure_plan(PlanConfig(output=output))


@pytest.mark.parametrize("name", ["none", "empty"])
def test_an_input_without_images_leaves_nothing_behind(tmp_path, output, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        ensure_plan(PlanConfig(output=output, input=str(tmp_path / name)))
    assert read_plan(output, {}) is None
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_an_output_error(folder):
    with pytest.raises(OutputError, match="cannot use output"):
        ensure_plan(PlanConfig(output=str(folder / "a.png" / "run"), input=str(folder)))


def test_files_that_were_passed_over_are_mentioned(folder, output, caplog):
    (folder / "notes.txt").touch()
    with caplog.at_level(logging.INFO, logger="sam_pipeline"):
        ensure_plan(PlanConfig(output=output, input=str(folder)))
    assert caplog.messages == ["skipped 1 files that are not images"]


@pytest.mark.parametrize(("num_images", "sampled"), [(1, [0]), (7, list(range(7))), (90, list(range(0, 80, 4)))])
def test_at_most_twenty_images_spread_over_the_plan_are_sampled(tmp_path, num_images, sampled):
    made = runs.plan(str(tmp_path), num_images)
    assert [image.uri for image in sample_images(made, {})] == [f"file:///in/{index:04}.jpg" for index in sampled]
    assert next(sample_images(made, {})).etag == "etag-0"
