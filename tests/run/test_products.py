"""What a run makes of itself is what the rooms make of its results: each method passes on everything it is given."""

import importlib.util
import json
from typing import get_args

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam_pipeline import open_run
from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.evaluation.settings import EvaluationSettings
from sam_pipeline.exports.settings import ExportFormat, ExportSettings
from sam_pipeline.report.statistics import read_statistics
from sam_pipeline.results.categories import Categories
from sam_pipeline.run.keywords import EvaluationKeywords, ExportKeywords
from sam_pipeline.run.products import RunProducts
from tests.results.picture_runs import blob, files, num_masks_of, picture_run

NUM_IMAGES = 6
NUM_MASKS = sum(num_masks_of(image_id) for image_id in range(NUM_IMAGES))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return open_run(picture_run(folder / "run", files(folder / "in", NUM_IMAGES), per_shard=4))


@pytest.mark.parametrize(
    ("keywords", "settings", "argument"),
    [(ExportKeywords, ExportSettings(format="coco"), "format"),
     (EvaluationKeywords, EvaluationSettings(ground_truth="x"), "ground_truth")],
)  # fmt: skip
def test_the_keywords_are_the_settings(keywords, settings, argument):
    assert [argument, *keywords.__annotations__] == list(settings.by_name())


def test_statistics_are_of_what_is_selected(run):
    done = []
    stats = run.stats(on_progress=done.append)
    assert (stats.num_images, stats.num_masks, sum(done)) == (NUM_IMAGES, NUM_MASKS, NUM_IMAGES)
    best = run.filter(pred_iou_thresh=0.9)
    assert best.stats() == read_statistics(best.results, Categories())
    assert 0 < best.stats().num_masks < NUM_MASKS


def test_there_is_a_method_for_every_format():
    methods = {name.removeprefix("to_").replace("_", "-") for name in vars(RunProducts) if name.startswith("to_")}
    assert methods == set(get_args(ExportFormat))


@pytest.mark.parametrize("form", get_args(ExportFormat))
def test_each_format_is_written_by_its_method_as_by_its_name(run, tmp_path, form):
    done = []
    one = run.export(tmp_path / "one", form, on_progress=done.append)
    other = getattr(run, f"to_{form.replace('-', '_')}")(tmp_path / "other")
    assert (one.format, one.num_images, one.num_masks) == (form, NUM_IMAGES, NUM_MASKS)
    assert (other.format, other.num_images, other.num_masks) == (form, NUM_IMAGES, NUM_MASKS)
    assert sum(done) == NUM_IMAGES
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in tmp_path.iterdir()]
    assert names[0] == names[1]


def test_settings_and_selection_reach_an_export(run, tmp_path):
    summary = run.filter(max_masks=1).to_coco(tmp_path / "coco", keep_empty=False)
    with_masks = sum(num_masks_of(image_id) > 0 for image_id in range(NUM_IMAGES))
    assert (summary.num_images, summary.num_masks) == (with_masks, with_masks)
    with pytest.raises(OutputError, match="not empty"):
        run.to_coco(tmp_path)
    for wrong, message in (({"simplfy": 3}, r"simplfy \(did you mean simplify\?\)"), ({"split": 2}, "split must be")):
        with pytest.raises(ConfigError, match=message):
            run.to_coco(tmp_path / "new", **wrong)
    with pytest.raises(ConfigError, match="format must be one of coco, "):
        run.export(tmp_path / "new", "cocoa")
    assert not (tmp_path / "new").exists()


def test_a_page_is_written(run, tmp_path):
    done = []
    run.report(tmp_path / "page.html", gallery=2, on_progress=done.append)
    page = (tmp_path / "page.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert sum(done) >= NUM_IMAGES
    with pytest.raises(OutputError, match="exists already"):
        run.report(tmp_path / "page.html")
    run.report(tmp_path / "page.html", gallery=1, overwrite=True)
    assert len((tmp_path / "page.html").read_text()) < len(page)
    for wrong in ({"gallery": -1}, {"picture_size": 3}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be from"):
            run.report(tmp_path / "other.html", **wrong)


@pytest.fixture
def ground_truth(tmp_path):
    """The masks of the run itself."""
    images, annotations = [], []
    for image_id in range(NUM_IMAGES):
        images.append({"id": image_id + 1, "file_name": f"{image_id:04}.png", "height": 96, "width": 128})
        for number in range(num_masks_of(image_id)):
            pixels = blob(10 * image_id + number)[1]
            coded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id + 1, "category_id": 1, "iscrowd": 0,
                "segmentation": coded | {"counts": coded["counts"].decode()}, "area": int(pixels.sum()),
                "bbox": coco_mask.toBbox(coded).tolist(),
            })  # fmt: skip
    path = tmp_path / "instances.json"
    categories = [{"id": 1, "name": "thing"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="evaluate needs the extra eval, which dev includes"
)
def test_a_run_is_compared_with_ground_truth(run, ground_truth):
    done = []
    evaluation = run.evaluate(ground_truth, iou=["mask", "box"], on_progress=done.append)
    assert {kind: round(figures["AP"], 6) for kind, figures in evaluation.figures.items()} == {"mask": 1.0, "box": 1.0}
    assert sum(done) == NUM_IMAGES
    worse = run.filter(max_masks=1).evaluate(ground_truth, iou=["mask"])
    assert worse.figures["mask"]["AR@1000"] < 0.9


def test_what_cannot_be_compared_is_refused(run, ground_truth):
    with pytest.raises(ConfigError, match=r"iou must be some of mask, box, boundary"):
        run.evaluate(ground_truth, iou=["pixels"])
    with pytest.raises(ConfigError, match=r"there is no setting iuo \(did you mean iou\?\)"):
        run.evaluate(ground_truth, iuo=["mask"])
