"""The examples of EXAMPLES.md run as they stand, in a folder that holds the photographs of `make demo`."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.demo import save_photographs
from sam_pipeline import MaskConfig, ModelConfig, open_run
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.prompt_plan import ensure_prompts, resolve_targets
from tests.configs import annotate_config

TEXT = (Path(__file__).parents[2] / "EXAMPLES.md").read_text()
INTRODUCTION, *SECTIONS = TEXT.split("\n## ")


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


(COMMON,) = blocks(INTRODUCTION)
EXAMPLES = {section.split("\n", 1)[0]: blocks(section) for section in SECTIONS}

ALL = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.png"]
COFFEE, CHELSEA = "coffee.png", "chelsea.png"
IMAGES = {
    "folder": ALL[:3],
    "glob": 3,
    "file": [COFFEE],
    "csv": [CHELSEA, COFFEE],
    "json-lines": [COFFEE, "rocket.png"],
    "text": [COFFEE, "rocket.png"],
    "parquet-list": [CHELSEA, COFFEE],
    "parquet-images": ["train.parquet#000000000", "train.parquet#000000001"],
    "webdataset": ["shard.tar#coffee.png"],
    "zip": 2,
    "coco": [COFFEE],
    "results": ALL,
    "ids": ALL,
    "annotations": [COFFEE],
    "corners": ALL,
    "yolo": ALL,
    "points": ALL,
    "box-and-point": ALL,
    "logits": ALL,
    "both": ALL,
}
"""What each example annotates, by the name of its output; how many, where their choice is left to the program."""

EXTRA = {
    "csv": {CHELSEA: '{"drink": "milk"}', COFFEE: '{"drink": "espresso"}'},
    "parquet-images": {"train.parquet#000000000": '{"label": 3}', "train.parquet#000000001": '{"label": 5}'},
    "webdataset": {"shard.tar#coffee.png": '{"json": {"caption": "a cup of coffee"}}'},
    "coco": {COFFEE: '{"coco_image_id": 42}'},
    "annotations": {COFFEE: '{"coco_image_id": 42}'},
}

PROMPT_IDS = {
    "results": {COFFEE: [0]},
    "ids": {COFFEE: [0]},
    "annotations": {COFFEE: [7]},
    "corners": {COFFEE: [0, 1]},
    "yolo": {COFFEE: [0]},
    "points": {COFFEE: [0], CHELSEA: [1]},
    "box-and-point": {COFFEE: [0]},
    "logits": {COFFEE: [0]},
    "both": {COFFEE: [0]},
}

PROMPTS = tuple(PROMPT_IDS)
INPUTS = tuple(name for name in IMAGES if name not in PROMPTS)


@pytest.fixture
def demo(tmp_path):
    save_photographs(tmp_path / "demo" / "images")
    return tmp_path


def name_in(uri):
    return uri.rsplit("/", 1)[1]


def test_every_example_plans_its_images_and_prompts(demo, monkeypatch):
    monkeypatch.chdir(demo)
    planned = {}

    def annotate(model_type, points_per_side, **settings):
        config = annotate_config(**settings, model=ModelConfig(model_type="vit_t"), masks=MaskConfig(points_per_side=4))
        plan = ensure_plan(config)
        resolve_targets(config, plan)  # raises for settings that do not go together
        prompts = ensure_prompts(config, plan)
        planned[Path(config.output).name] = (plan.num_images, prompts.num_prompts if prompts else 0)
        return SimpleNamespace(rows=lambda **_: [])

    for example in itertools.chain.from_iterable(EXAMPLES.values()):
        names = {}
        exec(COMMON, names)
        exec(example, names | {"annotate": annotate})
    num_images = {name: found if isinstance(found, int) else len(found) for name, found in IMAGES.items()}
    num_prompts = {name: sum(map(len, PROMPT_IDS.get(name, {}).values())) for name in IMAGES}
    assert planned == {name: (num_images[name], num_prompts[name]) for name in IMAGES}


ONE_CLUSTER = "import ray\n\nray.init(num_cpus=2, include_dashboard=False)\n"


@pytest.mark.soak
@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(("section", "names"), [("Inputs", INPUTS), ("Prompts", PROMPTS)])
def test_every_example_annotates_its_images(demo, start, monkeypatch, section, names):
    (demo / "examples.py").write_text("\n".join([ONE_CLUSTER, COMMON, *EXAMPLES[section]]))
    monkeypatch.chdir(demo)
    finished = start("examples.py", script="python").wait()
    assert finished.exit_code == 0, finished.stderr
    assert "coffee.png" in finished.stdout
    assert {path.name for path in Path("demo/examples").iterdir()} == set(names)
    for name in names:
        images = IMAGES[name]
        rows = {name_in(row["uri"]): row for row in open_run(f"demo/examples/{name}").rows()}
        assert len(rows) == images if isinstance(images, int) else sorted(rows) == images
        for image, row in rows.items():
            assert (row["status"], row["prompt_errors"]) == ("ok", None), (name, image)
            assert row["extra"] == EXTRA.get(name, {}).get(image)
            ids = [mask["prompt_id"] for mask in row["masks"] if mask["prompt_id"] is not None]
            assert ids == PROMPT_IDS.get(name, {}).get(image, [])
            is_of_grid = name not in PROMPT_IDS or name == "both"
            assert is_of_grid or len(ids) == row["num_masks"]
        assert any(row["num_masks"] for row in rows.values())
