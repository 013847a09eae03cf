"""Plans that are extended: listed as before, compared with what was planned, refused where settings seem wrong."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.errors import ConfigError, InputError
from sam_pipeline.pipeline import plan as plan_module
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.inputs.list_input import ListedInput, list_input
from sam_pipeline.storage.tables.plan import read_plan, read_planned, write_plan
from tests.configs import annotate_config, plan_config
from tests.storage.image_files import noise, saved

PNG = saved(noise(4, 5), "PNG")


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level(logging.INFO, "sam_pipeline")
    return caplog


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
    return folder


def planned(output):
    rows = read_planned(output, range(99), {}).to_pylist()
    return [row["uri"].rpartition("/")[2] for row in rows]


def names_of(path, *names, header="uri", column=0):
    lines = [",".join([""] * column + [name]) for name in names]
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def test_a_list_is_read_from_the_root_that_it_was_planned_with_from_any_folder(tmp_path, output, monkeypatch, messages):
    images(tmp_path / "photos", "a.png", "b.png")
    monkeypatch.chdir(tmp_path)
    source = names_of(tmp_path / "list.csv", "a.png")
    ensure_plan(plan_config(output=output, input=source, image_root="photos"))
    names_of(tmp_path / "list.csv", "a.png", "b.png")
    monkeypatch.chdir("/")
    assert ensure_plan(plan_config(output=output, input=source, extend=True)).num_images == 2
    assert [row["uri"] for row in read_planned(output, range(9), {}).to_pylist()] == [
        f"file://{tmp_path}/photos/{name}" for name in ("a.png", "b.png")
    ]
    assert f"listing the input with the plan's own settings: image_root='{tmp_path}/photos'" in messages.text


def test_what_was_left_out_stays_out_and_what_was_kept_is_kept(tmp_path, output):
    images(tmp_path, "a.png", "bad.png", "b.png")
    source = names_of(tmp_path / "list.csv", "a.png,7,x", "bad.png,8,y", header="uri,label,other")
    settings = {"exclude": ("bad*",), "keep": ("label",), "input_column": "uri", "input_format": "manifest"}
    ensure_plan(plan_config(output=output, input=source, **settings))
    names_of(tmp_path / "list.csv", "a.png,7,x", "bad.png,8,y", "b.png,9,z", header="uri,label,other")
    ensure_plan(plan_config(output=output, input=source, extend=True))
    assert planned(output) == ["a.png", "b.png"]
    assert [json.loads(row["extra"]) for row in read_planned(output, range(9), {}).to_pylist()] == [
        {"label": "7"},
        {"label": "9"},
    ]
    assert read_plan(output, {}).listing == {name: _as_json(value) for name, value in settings.items()}


def _as_json(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("make", [plan_config, annotate_config])
def test_what_is_given_now_wins_and_is_the_plans_from_then_on(tmp_path, output, messages, make):
    folder = str(images(tmp_path / "in", "a.png", "b.jpg", "c.webp"))
    ensure_plan(make(output=output, input=folder, exclude=("*.jpg", "*.webp")))
    ensure_plan(make(output=output, input=folder, exclude=("*.webp",), extend=True))
    assert planned(output) == ["a.png", "b.jpg"]
    assert "with settings that the plan did not have, and has now: exclude=['*.webp']" in messages.text
    messages.clear()
    ensure_plan(make(output=output, input=folder, extend=True))
    assert planned(output) == ["a.png", "b.jpg"]
    assert "did not have" not in messages.text
    assert "the plan's own settings: exclude=['*.webp']" in messages.text
    ensure_plan(make(output=output, input=folder, exclude=(), extend=True))
    assert planned(output) == ["a.png", "b.jpg", "c.webp"]


def test_images_on_the_web_stay_allowed(tmp_path, output):
    source = tmp_path / "in" / "coco.json"
    images(tmp_path / "in", "a.png")
    entries = [{"id": 1, "file_name": "a.png"}, {"id": 2, "coco_url": "http://host.invalid/b.png"}]
    source.write_text(json.dumps({"images": entries[:1]}))
    ensure_plan(plan_config(output=output, input=str(source), allow_http=True))
    source.write_text(json.dumps({"images": entries}))
    ensure_plan(plan_config(output=output, input=str(source), extend=True))
    (_, added) = read_planned(output, range(9), {}).to_pylist()
    assert (added["uri"], added["error"]) == ("http://host.invalid/b.png", None)


def test_a_plan_made_anew_keeps_its_own_settings_alone(tmp_path, output):
    folder = str(images(tmp_path / "in", "a.png", "b.jpg"))
    ensure_plan(plan_config(output=output, input=folder, exclude=("*.jpg",)))
    ensure_plan(plan_config(output=output, input=folder, replan=True))
    assert (planned(output), read_plan(output, {}).listing) == (["a.png", "b.jpg"], {})


def test_a_root_that_nothing_was_read_from_is_not_kept(tmp_path, output):
    # Nobody has looked whether it holds a credential.
    folder = str(images(tmp_path / "in", "a.png"))
    ensure_plan(plan_config(output=output, input=folder, image_root="s3://key:secret@bucket"))
    assert read_plan(output, {}).listing == {}


def test_a_plan_of_an_earlier_version_is_extended_with_what_is_given(tmp_path, output, messages):
    folder = images(tmp_path / "in", "a.png", "b.jpg")
    config = plan_config(output=output, input=str(folder), exclude=("*.jpg",))
    write_plan(output, str(folder), list_input(config).images, {})
    images(folder, "c.png")
    ensure_plan(plan_config(output=output, input=str(folder), exclude=("*.jpg",), extend=True))
    assert planned(output) == ["a.png", "c.png"]
    assert "settings" not in messages.text
    images(folder, "d.png")
    ensure_plan(plan_config(output=output, input=str(folder), extend=True))
    assert planned(output) == ["a.png", "c.png", "d.png"]


def test_the_output_of_the_previous_version_is_extended(tmp_path, monkeypatch):
    stored = Path(__file__).parents[1] / "storage" / "previous_version" / "run"
    output = str(shutil.copytree(stored, tmp_path / "run"))
    plan = read_plan(output, {})
    assert plan.listing is None
    # What it was planned from is not here.
    found = list_input(plan_config(output=output, input=str(images(tmp_path / "in", "a.png")))).images
    monkeypatch.setattr(plan_module, "list_input", lambda config: ListedInput(found, "files"))
    extended = ensure_plan(plan_config(output=output, input=plan.input, extend=True))
    assert extended.num_images == plan.num_images + 1 == read_plan(output, {}).num_images


def test_new_images_that_cannot_be_read_become_rows_unless_names_are_taken_for_others_now(tmp_path, output):
    source = names_of(tmp_path / "list.csv", "a.png")
    images(tmp_path, "a.png")
    ensure_plan(plan_config(output=output, input=source))
    names_of(tmp_path / "list.csv", "a.png", "gone-1.png", "gone-2.png")
    made = ensure_plan(plan_config(output=output, input=source, extend=True))
    assert made.num_images == 3
    names_of(tmp_path / "list.csv", str(tmp_path / "a.png"), "b.png", "c.png")
    with pytest.raises(InputError, match=r"none of the images looked at \(2 of 2\) can be read, .*no such file"):
        ensure_plan(plan_config(output=output, input=source, image_root=str(tmp_path / "other"), extend=True))
    assert ensure_plan(plan_config(output=output)) == made


def test_other_images_of_a_list_are_planned_where_their_names_are_taken_as_before(tmp_path, output):
    images(tmp_path, "train/a.png", "val/b.png", "val/c.png")
    source = names_of(tmp_path / "list.csv", "train/a.png", "val/b.png")
    ensure_plan(plan_config(output=output, input=source, include=("train/*",)))
    ensure_plan(plan_config(output=output, input=source, include=("val/*",), extend=True))
    assert planned(output) == ["a.png", "b.png"]
    names_of(tmp_path / "list.csv", "val/c.png")
    ensure_plan(plan_config(output=output, input=source, extend=True))
    assert planned(output) == ["a.png", "b.png", "c.png"]


def test_a_list_that_names_none_of_its_images_any_more_is_refused(tmp_path, output):
    images(tmp_path, "a.png", "b.png", "other/a.png", "other/b.png")
    source = names_of(tmp_path / "list.csv", "a.png", "b.png")
    made = ensure_plan(plan_config(output=output, input=source))
    with pytest.raises(ConfigError, match=r"names none of the 2 planned images now, but 2 others: give .*--image-root"):
        ensure_plan(plan_config(output=output, input=source, image_root=str(tmp_path / "other"), extend=True))
    assert ensure_plan(plan_config(output=output)) == made
    assert read_plan(output, {}).listing == {}


def test_a_folder_whose_images_are_all_others_now_is_extended(tmp_path, output, messages):
    folder = images(tmp_path / "in", "a.png")
    ensure_plan(plan_config(output=output, input=str(folder)))
    (folder / "a.png").unlink()
    images(folder, "b.png")
    ensure_plan(plan_config(output=output, input=str(folder), extend=True))
    assert "1 new images, 0 changed, 1 gone" in messages.text


def test_images_that_a_list_names_are_not_compared_and_not_said_to_be_the_same(tmp_path, output, messages):
    images(tmp_path, "a.png", "b.png")
    source = names_of(tmp_path / "list.csv", "a.png", "b.png")
    made = ensure_plan(plan_config(output=output, input=source))
    (tmp_path / "a.png").write_bytes(PNG + b"more")
    ensure_plan(plan_config(output=output, input=source, extend=True))
    assert "0 new images, 0 changed, 0 gone; 2 have no size or ETag in the plan and were not compared" in messages.text
    with pytest.raises(ConfigError, match=r"--redo-changed cannot tell which images .* a list gives"):
        ensure_plan(plan_config(output=output, input=source, extend=True, redo_changed=True))
    assert ensure_plan(AnnotateConfig(output=output)) == made
