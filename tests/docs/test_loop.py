"""The loop of docs/loop.md: from boxes to masks to a detector that learns from them."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from jobs import demo, make_scenes, train_detector
from jobs.make_scenes import CATEGORIES, SIZE, make_scene, write_scenes
from jobs.train_detector import train
from sam_pipeline.cli.commands import main
from sam_pipeline.masks.runs import rle
from sam_pipeline.masks.runs.runs import Runs
from sam_pipeline.storage.inputs.source_object import SourceObject, source_table
from sam_pipeline.storage.tables.plan import write_plan
from tests.storage.runs import mask, row, shard, take_over


def stored(category_id, pixels):
    """The pixels of an object as a mask of a run."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    box = [int(value) for value in (columns[0], rows[0], columns[-1] - columns[0], rows[-1] - rows[0])]
    segmentation = rle.encode(Runs.of_mask(pixels))
    found = {"segmentation": segmentation, "bbox": box, "area": int(pixels.sum())}
    prompt = {
        "prompt_id": 0,
        "category_id": category_id,
        "score": 0.9,
        "prompt_box": [*box[:2], box[2] + 1, box[3] + 1],
    }
    return mask(0) | found | prompt


@pytest.fixture
def run(tmp_path):
    """Scenes with the masks that a perfect model would find."""
    objects_of_scenes = write_scenes(tmp_path / "scenes", 12)
    paths = sorted((tmp_path / "scenes" / "images").iterdir())
    images = [SourceObject(f"file://{path}", path.stat().st_size, None) for path in paths]
    output = str(tmp_path / "run")
    write_plan(output, str(tmp_path / "scenes"), source_table(images), {})
    (tmp_path / "scenes" / "data.yaml").write_text(yaml.safe_dump({"names": dict(CATEGORIES)}))
    rows = []
    for number, (image, objects) in enumerate(zip(images, objects_of_scenes, strict=True)):
        masks = [stored(*each) for each in objects]
        rows.append(row(number, len(masks), uri=image.uri, height=SIZE, width=SIZE, masks=masks))
    take_over(output, {"mode": "prompted", "max_pixels": 10**6, "schema_version": 3}).commit([shard(output, rows)])
    return output


@pytest.mark.usefixtures("one_thread")
def test_a_detector_learns_from_the_masks_of_a_run(run):
    outcome = train(run, steps=40, side=96, batch_size=6, held_out=0.25, seed=0)
    assert (outcome.num_seen, outcome.num_held_out) == (9, 3)
    assert np.mean(outcome.losses[-8:]) < 0.5 * np.mean(outcome.losses[:8])
    assert 0 <= outcome.precision <= outcome.precision_at_50 <= 1


def test_a_scene_has_objects_of_all_categories_apart_from_each_other():
    random = np.random.default_rng(0)
    scenes = [make_scene(random) for _ in range(8)]
    assert {category_id for _, objects in scenes for category_id, _ in objects} == set(CATEGORIES)
    for image, objects in scenes:
        assert image.shape == (SIZE, SIZE, 3)
        assert sum(pixels.astype(int) for _, pixels in objects).max() == 1


@pytest.fixture
def script(monkeypatch, capsys):
    """Run the main of a script; returns its exit code and what it said on standard error."""

    def run_main(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        try:
            module.main()
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run_main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", 0], "steps must be at least 1, got 0"),
        (["--side", 0], "side must be at least 1, got 0"),
        (["--batch-size", 0], "batch_size must be at least 1, got 0"),
        (["--held-out", 0], r"held_out must be in \(0, 1\), got 0.0"),
        (["--held-out", "nan"], r"held_out must be in \(0, 1\), got nan"),
        (["--held-out", 0.01], "12 images with masks cannot be divided; 0.01 of them are to be held out"),
        (["--seed", -1], r"seed must be in \[0, 2\*\*63\), got -1"),
        (["--threads", 0], "threads must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_one_line_of_the_trainer(run, script, arguments, message):
    code, err = script(train_detector, run, *arguments)
    assert code == 2
    assert re.fullmatch(f"error: {message}\n", err)


@pytest.mark.usefixtures("one_thread")
def test_runs_that_cannot_be_trained_on_are_one_line(run, script, tmp_path):
    code, err = script(train_detector, tmp_path / "none")
    assert code == 2
    assert re.fullmatch(r"error: [^\n]*none[^\n]*\n", err)
    for path in (tmp_path / "scenes" / "images").iterdir():
        path.unlink()
    code, err = script(train_detector, run, "--side", 32)
    assert code == 2
    assert re.fullmatch(r"error: cannot read image [^\n]+\n", err)
    write_plan(str(tmp_path / "empty"), "/in", source_table([SourceObject("file:///in/0.png", 1, None)]), {})
    settings = {"mode": "grid", "max_pixels": 10**6, "schema_version": 3}
    take_over(str(tmp_path / "empty"), settings).commit([shard(str(tmp_path / "empty"), [row(0, 0)])])
    code, err = script(train_detector, tmp_path / "empty")
    assert (code, err) == (2, "error: 0 images with masks cannot be divided; 0.25 of them are to be held out\n")


def test_scenes_are_written_to_a_folder_of_their_own(script, tmp_path):
    assert script(make_scenes, tmp_path / "scenes", "--scenes", 3) == (0, "")
    images = tmp_path / "scenes" / "images"
    assert sorted(path.name for path in images.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    code, err = script(make_scenes, tmp_path / "scenes", "--scenes", 2)
    assert (code, err) == (2, f"error: {tmp_path / 'scenes'} is not empty: name another folder\n")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    (tmp_path / "empty").mkdir()
    assert script(make_scenes, tmp_path / "empty", "--scenes", 1) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenes", 0], "scenes must be at least 1, got 0"),
        (["--seed", -1], "seed must be at least 0, got -1"),
    ],
)
def test_settings_that_cannot_be_are_one_line_of_the_maker_of_scenes(script, tmp_path, arguments, message):
    assert script(make_scenes, tmp_path / "scenes", *arguments) == (2, f"error: {message}\n")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_scenes_is_one_line(script, tmp_path):
    (tmp_path / "scenes").write_text("mine")
    code, err = script(make_scenes, tmp_path / "scenes")
    assert code == 2
    assert re.fullmatch(r"error: \S+/scenes cannot be written: [^\n]+\n", err)
    assert (tmp_path / "scenes").read_text() == "mine"


def test_the_demo_leaves_a_file_of_a_photographs_name_and_says_mistakes_in_one_line(script, tmp_path):
    (tmp_path / "demo" / "images").mkdir(parents=True)
    (tmp_path / "demo" / "images" / "coffee.png").write_text("mine")
    code, err = script(demo, tmp_path / "demo", "--points-per-side", 0)
    assert (code, err) == (2, "error: points_per_side must be at least 1, got 0\n")
    assert (tmp_path / "demo" / "images" / "coffee.png").read_text() == "mine"


TEXT = (Path(__file__).parents[2] / "docs" / "loop.md").read_text()
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith(("    sam-pipeline ", "    python "))]


README = (Path(__file__).parents[2] / "README.md").read_text()
LOOP = re.search(r"```text\n(sam-pipeline annotate .*?)```", README, flags=re.DOTALL)[1]


@pytest.mark.usefixtures("one_thread")
def test_the_loop_of_the_readme_runs(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert end_of("sam-pipeline export run truth --format coco") == 0
    (tmp_path / "truth" / "annotations.json").rename("instances.json")
    annotate, *commands, training = LOOP.splitlines()
    assert "--prompts boxes.json" in annotate  # its run is there already
    for command in commands:
        assert end_of(command) == 0, command
    assert "1.0000" in capsys.readouterr().out  # of evaluate: the run is its own ground truth
    assert (tmp_path / "good.html").exists()
    assert (tmp_path / "yolo" / "data.yaml").exists()
    _, script, output, _, steps = shlex.split(training, comments=True)
    assert (script, int(steps)) == ("jobs/train_detector.py", 300)
    assert np.isfinite(train(output, steps=2, side=64, batch_size=2, held_out=0.25, seed=0).losses).all()


def end_of(command):
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command, comments=True)[1:])
    return end.value.code


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.weights
def test_the_loop_of_the_documentation_is_closed(tmp_path, start, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(Path(__file__).parents[2] / "jobs")
    precision = {}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        finished = start(*arguments, script=program).wait()
        assert finished.exit_code == 0, f"{command}: {finished.stderr}"
        if arguments[0] == "jobs/train_detector.py":
            first, last = map(float, re.findall(r"([\d.]+) at (?:first|last)", finished.stdout))
            assert last < 0.3 * first
            precision[arguments[1]] = float(
                re.search(r"^AP50 on held-out +([\d.]+)$", finished.stdout, re.MULTILINE)[1]
            )
    assert precision["loop/good"] > 0.5
    assert precision["loop/objects"] > 0.4
    assert (tmp_path / "loop" / "yolo" / "data.yaml").exists()
