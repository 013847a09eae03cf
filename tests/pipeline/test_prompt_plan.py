"""Prompts, regions and grids: frozen with a plan, refused where they clash, and answered image by image."""

import gzip
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_pipeline.config import MaskConfig
from sam_pipeline.errors import ConfigError, InputError, SamPipelineError
from sam_pipeline.pipeline import plan as plan_module
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.prompt_plan import ensure_prompts, resolve_targets
from sam_pipeline.storage.tables.prompts import announce_prompts, read_prompts_header
from sam_pipeline.storage.tables.reading.prompt_reading import read_image_prompts
from sam_pipeline.storage.tables.results import MaskTable
from tests.configs import annotate_config
from tests.storage.image_files import noise, saved
from tests.storage.runs import row, shard


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.png").write_bytes(saved(noise(20, 30), "PNG"))
    return tmp_path


def detection(image, **fields):
    return {"image": image, "bbox": [1, 2, 3, 4], "score": 0.5, "category_id": 1} | fields


def file_of(folder, *rows, name="detections.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(folder, **settings):
    return annotate_config(**{"output": str(folder / "run"), "input": str(folder / "in")} | settings)


def targets_of(folder, **settings):
    config = config_of(folder, **settings)
    return resolve_targets(config, ensure_plan(config))


def is_frozen(folder):
    return read_prompts_header(str(folder / "run"), {}) is not None


def test_without_prompts_it_is_the_grid(folder):
    targets = targets_of(folder)
    assert (targets.mode, targets.prompts, targets.layers) == ("grid", None, None)
    assert targets.pinned == {"mode": "grid", "prompts_sha256": None, "point_grid_sha256": None}


def test_prompts_are_frozen_and_found_again_without_being_named(folder):
    rows = [detection("2.png"), detection("0.png", bbox=[5, 5, 2, 2]), detection("2.png", category_id=9)]
    first = targets_of(folder, prompts=file_of(folder, *rows))
    assert (first.mode, first.prompts.num_prompts, first.prompts.max_prompts) == ("prompted", 3, 2)
    again = targets_of(folder)
    assert again.pinned == first.pinned
    assert again.pinned["prompts_sha256"] is not None
    found = read_image_prompts(str(folder / "run"), range(0, 3), {})
    assert [row["box_xyxy"] for row in found[0]] == [[5, 5, 7, 7]]
    assert [(row["prompt_id"], row["category_id"]) for row in found[2]] == [(0, 1), (2, 9)]
    assert targets_of(folder, mode="both").mode == "both"


def test_the_same_file_again_is_not_read_again_and_another_is_refused(folder, monkeypatch):
    path = file_of(folder, detection("0.png"))
    targets_of(folder, prompts=path)
    with monkeypatch.context() as patch:
        patch.setattr("sam_pipeline.pipeline.prompt_plan.read_prompts", None)
        targets_of(folder, prompts=path)
    with pytest.raises(ConfigError, match=r"planned with other prompts \(min_score differ"):
        targets_of(folder, prompts=path, min_score=0.1)
    file_of(folder, detection("0.png"), detection("1.png"))
    with pytest.raises(ConfigError, match=r"planned with other prompts \(prompts_version differ"):
        targets_of(folder, prompts=path)


def test_the_same_file_again_is_read_as_before_without_saying_how(folder):
    prompts = file_of(folder, detection("0.png"), detection("1.png", score=0.1))
    regions = file_of(folder, detection("2.png", score=None), name="regions.jsonl")
    how = {"bbox_format": "xyxy", "min_score": 0.4, "mode": "both"}
    first = targets_of(folder, prompts=prompts, regions=regions, **how)
    for again in ({"prompts": prompts}, {"regions": regions}, {"prompts": prompts, "min_score": 0.4}):
        assert targets_of(folder, mode="both", **again).pinned == first.pinned
    with pytest.raises(ConfigError, match=r"planned with other prompts \(bbox_format differ"):
        targets_of(folder, mode="both", prompts=prompts, bbox_format="xywh")
    (folder / "in" / "9.png").write_bytes((folder / "in" / "0.png").read_bytes())
    added = file_of(folder, detection("9.png", bbox=[1, 1, 3, 4]), detection("9.png", score=0.2), name="more.jsonl")
    targets_of(folder, mode="both", prompts=added, regions=regions, extend=True)
    (row,) = read_image_prompts(str(folder / "run"), range(3, 4), {})[3]
    assert row["box_xyxy"] == [1, 1, 3, 4]


def test_prompts_for_images_that_are_not_planned_are_counted_and_the_others_are_used(folder, caplog):
    rows = [detection("0.png"), detection("gone.png"), detection(None), detection("1.png", bbox=[1, 2, 3])]
    with caplog.at_level(logging.INFO):
        targets = targets_of(folder, prompts=file_of(folder, *rows))
    assert targets.prompts.num_prompts == 2
    assert "1 rows name images that are not planned, such as 'gone.png'" in caplog.text
    assert "1 rows name no image" in caplog.text
    assert "2 prompts for 2 images, 1 of them unusable" in caplog.text


def test_prompts_of_which_none_is_for_a_planned_image_are_an_error(folder):
    with pytest.raises(InputError, match=r"no prompt in .*detections.jsonl is for an image of"):
        targets_of(folder, prompts=file_of(folder, detection("gone.png")))
    regions = file_of(folder, detection("0.png"), name="regions.jsonl")
    with pytest.raises(InputError, match=r"no prompt in .*detections.jsonl is for an image of"):
        targets_of(folder, prompts=file_of(folder, detection("gone.png")), regions=regions)
    with pytest.raises(InputError, match=r"no region in .*regions.jsonl is for an image of"):
        targets_of(
            folder,
            mode="both",
            prompts=file_of(folder, detection("0.png")),
            regions=file_of(folder, detection("gone.png"), name="regions.jsonl"),
        )
    assert not is_frozen(folder)


def coco_of(folder, *names, name="instances.json"):
    path = folder / name
    path.write_text(json.dumps({"images": [{"id": 100 + n, "file_name": file} for n, file in enumerate(names)]}))
    return str(path)


def test_why_no_prompt_is_for_an_image_is_said(folder):
    for rows, settings, why in (
        (
            [detection("1.png", score=0.7)],
            {"min_score": 0.8},
            "all scores are below --min-score 0.8, the highest",
        ),
        ([{"image_id": 9, "bbox": [1, 2, 3, 4]}], {}, "they have ids such as '9', and .* --prompt-images"),
        ([{"image_id": "X.png", "bbox": [1, 2, 3, 4]}], {}, "they name images such as 'X.png', and the images"),
        ([detection("x.png")], {}, "they name images such as 'x.png', and the images are such as 'file://.*0.png'"),
    ):
        with pytest.raises(InputError, match=rf"no prompt in .*detections.jsonl is for an image of .*: {why}"):
            targets_of(folder, prompts=file_of(folder, *rows), **settings)
    assert not is_frozen(folder)


def test_prompts_of_which_none_can_be_used_are_refused(folder):
    rows = [detection("0.png", bbox=[1, 2, 3]), detection("1.png", bbox=None)]
    with pytest.raises(InputError, match=r"no prompt in .*detections.jsonl can be used: bbox must be 4 numbers"):
        targets_of(folder, prompts=file_of(folder, *rows))
    assert not is_frozen(folder)


@pytest.mark.parametrize("kind", ["json", "json.gz", "jsonl", "parquet"])
def test_ids_of_a_detector_work_with_the_file_that_has_the_names(folder, kind):
    rows = [{"image_id": 100 + n, "bbox": [1, 2, 3 + n, 4]} for n in (2, 0, 9)]
    path = folder / f"results.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        file_of(folder, *rows, name=path.name)
    else:
        data = json.dumps(rows).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    names = coco_of(folder, "0.png", "sub/gone.png", "2.png")
    settings = {"prompts": str(path), "prompt_images": names}
    assert targets_of(folder, **settings).prompts.num_prompts == 2
    found = read_image_prompts(str(folder / "run"), range(3), {})
    assert {image_id: row["box_xyxy"] for image_id, (row,) in found.items()} == {0: [1, 2, 4, 6], 2: [1, 2, 6, 6]}
    # The same command again goes on, also without the file that has the names; another such file is refused.
    for again in (settings, {"prompts": str(path)}):
        assert targets_of(folder, **again).prompts.num_prompts == 2
    (folder / "other").mkdir()
    with pytest.raises(ConfigError, match=r"other prompts \(prompt_images, prompt_images_version differ\)"):
        targets_of(folder, prompts=str(path), prompt_images=coco_of(folder / "other", "0.png"))


def test_the_file_that_has_the_names_may_be_called_anything(folder):
    prompts = file_of(folder, {"image_id": 100, "bbox": [1, 2, 3, 4]})
    (folder / "empty").mkdir()
    for names, why in (
        (folder / "run.txt", r"cannot read .*run\.txt: not JSON"),
        (folder / "none", "input not found: .*none"),
        (folder / "empty", "no names of images in .*empty"),
    ):
        (folder / "run.txt").write_text("no JSON")
        with pytest.raises(InputError, match=why):
            targets_of(folder, prompts=prompts, prompt_images=str(names))
    names = coco_of(folder, "0.png", name="instances")
    assert targets_of(folder, prompts=prompts, prompt_images=names).prompts.num_prompts == 1


def test_names_of_images_without_prompts_are_refused(folder):
    with pytest.raises(ConfigError, match="prompt_images names the images of prompts: say which with --prompts"):
        config_of(folder, prompt_images=coco_of(folder, "0.png"))


def test_what_is_refused_freezes_nothing(folder):
    path = file_of(folder, detection("0.png"))
    regions = file_of(folder, detection("0.png"), name="regions.jsonl")
    (folder / "grid.json").write_text("no grid")
    for settings in (
        {"regions": regions, "mode": "prompted"},
        {"prompts": path, "regions": regions},
        {"prompts": path, "point_grid": str(folder / "grid.json"), "mode": "both"},
        {"prompts": path, "min_score": 0.9},
    ):
        with pytest.raises(SamPipelineError):
            targets_of(folder, **settings)
        assert not is_frozen(folder), settings
    assert targets_of(folder, prompts=path).mode == "prompted"


def test_results_that_were_begun_without_prompts_get_none(folder):
    targets_of(folder)
    MaskTable.take_over(str(folder / "run"), {"mode": "grid"}, {}, {})
    config = config_of(folder, prompts=file_of(folder, detection("0.png")))
    for settle in (resolve_targets, ensure_prompts):
        with pytest.raises(ConfigError, match="were begun without prompts; use another --output"):
            settle(config, ensure_plan(config))
    assert not (folder / "run" / "prompts").exists()
    assert targets_of(folder).mode == "grid"


def test_a_grid_run_that_has_rows_goes_on_though_another_start_announced_prompts(folder):
    targets_of(folder)
    output, path = str(folder / "run"), file_of(folder, detection("0.png"))
    results = MaskTable.take_over(output, {"mode": "grid"}, {}, {})
    announce_prompts(output, {})
    with pytest.raises(ConfigError, match="given prompts, which were not frozen to the end"):
        targets_of(folder)
    results.commit([shard(output, [row(0)])])
    assert targets_of(folder).mode == "grid"
    with pytest.raises(ConfigError, match="were begun without prompts"):
        targets_of(folder, prompts=path)


def test_a_start_between_the_plan_and_its_prompts_does_not_do_without_them(folder):
    path = file_of(folder, detection("0.png"))
    ensure_plan(config_of(folder, prompts=path))
    with pytest.raises(ConfigError, match="given prompts, which were not frozen to the end: give --prompts"):
        targets_of(folder)
    assert targets_of(folder, prompts=path).mode == "prompted"
    assert targets_of(folder).mode == "prompted"


def test_added_images_in_which_nothing_was_found_have_no_prompts(folder):
    path = file_of(folder, detection("0.png"))
    targets_of(folder, prompts=path)
    (folder / "in" / "new.png").write_bytes(saved(noise(20, 30), "PNG"))
    file_of(folder, detection("gone.png"))
    with pytest.raises(InputError, match=r"no prompt in .* is for an image of"):
        targets_of(folder, extend=True, prompts=path)
    file_of(folder, detection("0.png"))
    extended = targets_of(folder, prompts=path)
    assert (extended.prompts.num_prompts, extended.prompts.num_images) == (1, 4)


def test_boxes_of_the_coco_file_that_was_planned_from_go_by_its_ids(folder):
    images = [{"id": index, "file_name": f"in/{index}.png"} for index in range(3)]
    images[1]["file_name"] = "./in/../in/1.png"
    annotations = [{"id": index, "image_id": index, "bbox": [1, 2, 3 + index, 4]} for index in range(3)]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    targets = targets_of(folder, input=str(path), prompts=str(path))
    found = read_image_prompts(str(folder / "run"), range(3), {})
    assert targets.prompts.num_prompts == 3
    assert [row["prompt_id"] for (row,) in (found[image_id] for image_id in sorted(found))] == [0, 1, 2]


def test_boxes_of_several_ids_of_one_file_are_of_the_image_that_is_planned(folder):
    images = [{"id": number, "file_name": f"in/{number % 2}.png"} for number in (5, 6, 7, 8, 9)]
    images[4] |= {"coco_url": "http://host/other.png"}
    annotations = [{"id": number, "image_id": number, "bbox": [1, 2, number, 4]} for number in (5, 6, 7, 8, 9)]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    targets_of(folder, input=str(path), prompts=str(path))
    found = read_image_prompts(str(folder / "run"), range(3), {})
    ids = {image_id: [row["prompt_id"] for row in rows] for image_id, rows in found.items()}
    assert ids == {0: [6, 8], 1: [5, 7]}, "9 may be an image of another URL"


def test_images_that_are_added_get_prompts_and_those_of_the_others_stay(folder):
    path = file_of(folder, detection("0.png"))
    first = targets_of(folder, prompts=path)
    (folder / "in" / "0-new.png").write_bytes(saved(noise(20, 30), "PNG"))
    with pytest.raises(ConfigError, match="1 images were added since the prompts were read: give --prompts"):
        targets_of(folder, extend=True)
    file_of(folder, detection("0.png", bbox=[9, 9, 9, 9]), detection("0-new.png"), detection("1.png"))
    extended = targets_of(folder, prompts=path)
    assert extended.pinned == first.pinned
    assert (extended.prompts.num_prompts, extended.prompts.num_images) == (2, 4)
    found = read_image_prompts(str(folder / "run"), range(0, 4), {})
    assert {image_id: row["box_xyxy"] for image_id, (row,) in found.items()} == {0: [1, 2, 4, 6], 3: [1, 2, 4, 6]}


def test_images_that_are_added_need_both_kinds_of_prompts_where_the_run_has_both(folder):
    prompts = file_of(folder, detection("0.png"), detection("new.png"))
    regions = file_of(folder, detection("0.png"), detection("new.png"), name="regions.jsonl")
    targets_of(folder, mode="both", prompts=prompts, regions=regions)
    (folder / "in" / "new.png").write_bytes(saved(noise(20, 30), "PNG"))
    for given, lacking in (
        ({}, "--prompts and --regions"),
        ({"prompts": prompts}, "--regions"),
        ({"regions": regions}, "--prompts"),
    ):
        with pytest.raises(ConfigError, match=f"1 images were added .*: give {lacking} again, with theirs"):
            targets_of(folder, mode="both", extend=True, **given)
    extended = targets_of(folder, mode="both", prompts=prompts, regions=regions)
    assert (extended.prompts.num_prompts, extended.prompts.num_regions) == (2, 2)


def test_regions_limit_the_grid_and_are_part_of_what_is_pinned(folder):
    path = file_of(folder, {"image": "1.png", "polygon": [[0, 0], [9, 0], [9, 9]]}, name="regions.jsonl")
    targets = targets_of(folder, regions=path)
    assert (targets.mode, targets.prompts.num_prompts, targets.prompts.num_regions) == ("grid", 0, 1)
    assert targets.pinned["prompts_sha256"] is not None
    (row,) = read_image_prompts(str(folder / "run"), range(0, 3), {})[1]
    assert (row["role"], row["polygon"]) == ("region", [[0, 0], [9, 0], [9, 9]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "prompted"}, "mode prompted needs prompts"),
        ({"mode": "both"}, "mode both needs prompts"),
    ],
)
def test_a_mode_without_what_it_needs_is_refused(folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        targets_of(folder, **settings)


def test_settings_that_would_be_without_effect_are_refused(folder):
    path = file_of(folder, detection("0.png"))
    with pytest.raises(ConfigError, match="mode grid makes no use of prompts"):
        config_of(folder, prompts=path, mode="grid")
    with pytest.raises(ConfigError, match="min_score chooses among prompts"):
        config_of(folder, min_score=0.5)
    with pytest.raises(ConfigError, match="bbox_format says how prompts"):
        config_of(folder, bbox_format="xyxy")
    targets_of(folder, prompts=path)
    with pytest.raises(ConfigError, match="mode grid makes no use of the prompts that"):
        targets_of(folder, mode="grid")
    (folder / "grid.json").write_text("[[0.5, 0.5]]")
    with pytest.raises(ConfigError, match="are for the grid, which mode prompted leaves out"):
        targets_of(folder, point_grid=str(folder / "grid.json"))
    assert targets_of(folder, point_grid=str(folder / "grid.json"), mode="both").layers[0].tolist() == [[0.5, 0.5]]


def test_a_grid_from_a_file_is_pinned_by_its_points(folder):
    (folder / "a.json").write_text("[[0.5, 0.25], [0.75, 1]]")
    (folder / "b.json").write_text("[[[0.50, 0.250], [0.75, 1.0]]]")
    (folder / "c.json").write_text("[[0.5, 0.25], [0.75, 0.5]]")
    targets = [targets_of(folder, point_grid=str(folder / name)) for name in ("a.json", "b.json", "c.json")]
    np.testing.assert_array_equal(targets[0].layers[0], [[0.5, 0.25], [0.75, 1]])
    assert targets[0].pinned == targets[1].pinned
    assert targets[0].pinned != targets[2].pinned


def test_a_grid_for_each_crop_layer(folder):
    (folder / "grid.json").write_text("[[[0.5, 0.5]], [[0.1, 0.2], [0.3, 0.4]]]")
    targets = targets_of(folder, point_grid=str(folder / "grid.json"), masks=MaskConfig(crop_n_layers=1))
    assert [len(layer) for layer in targets.layers] == [1, 2]
    with pytest.raises(ConfigError, match="holds 2 grids; crop_n_layers=0 needs 1"):
        targets_of(folder, point_grid=str(folder / "grid.json"))


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "[[0.5]]", "[[0.5, 1.5]]", "[[0.5, null]]", "[[[]]]", "7", '"a"', f"[[0.5, 1{400 * '0'}]]"],
)
def test_what_is_no_grid_is_refused_in_one_line(folder, text):
    (folder / "grid.json").write_text(text)
    with pytest.raises(ConfigError, match=r"point_grid .*grid\.json"):
        targets_of(folder, point_grid=str(folder / "grid.json"))


def test_a_grid_that_cannot_be_read_is_one_line(folder):
    (folder / "grid.json").write_text("no json")
    with pytest.raises(InputError, match=r"cannot read .*grid\.json: not JSON"):
        targets_of(folder, point_grid=str(folder / "grid.json"))


def test_prompts_that_are_frozen_need_no_plan_anew(folder):
    config = config_of(folder, prompts=file_of(folder, detection("0.png")))
    plan = ensure_plan(config)
    assert ensure_prompts(config, plan) == ensure_prompts(config_of(folder), plan)


def test_a_plan_that_is_made_anew_has_prompts_of_its_own(folder):
    first = targets_of(folder, prompts=file_of(folder, detection("0.png"), detection("1.png")))
    (folder / "in" / "0.png").unlink()
    (folder / "in" / "3.png").write_bytes(saved(noise(20, 30), "PNG"))
    path = file_of(folder, detection("3.png", bbox=[5, 5, 2, 2]))
    with pytest.raises(ConfigError, match=r"planned with other prompts \(prompts_version differ\); .* --replan while"):
        targets_of(folder, prompts=path)
    second = targets_of(folder, prompts=path, replan=True)
    assert second.pinned != first.pinned
    assert (second.prompts.num_prompts, second.prompts.num_images) == (1, 3)
    found = read_image_prompts(str(folder / "run"), range(3), {})
    assert {image_id: row["box_xyxy"] for image_id, (row,) in found.items()} == {2: [5, 5, 7, 7]}
    assert targets_of(folder, prompts=path).pinned == second.pinned
    assert targets_of(folder).pinned == second.pinned


def test_prompts_come_with_the_plan_that_is_made_anew_and_not_after_a_run_has_begun_with_it(folder):
    targets_of(folder)
    MaskTable.take_over(str(folder / "run"), {"mode": "grid"}, {}, {})
    path = file_of(folder, detection("0.png"))
    assert targets_of(folder, replan=True).mode == "grid"
    MaskTable.take_over(str(folder / "run"), {"mode": "grid"}, {}, {})
    with pytest.raises(ConfigError, match="were begun without prompts; use another --output, or --replan while"):
        targets_of(folder, prompts=path)
    assert targets_of(folder, prompts=path, replan=True).mode == "prompted"
    assert targets_of(folder).mode == "prompted"


def test_a_plan_that_is_made_anew_without_prompts_has_none(folder):
    targets_of(folder, prompts=file_of(folder, detection("0.png")))
    assert targets_of(folder, replan=True).mode == "grid"
    assert read_image_prompts(str(folder / "run"), range(3), {}) == {}
    assert targets_of(folder).mode == "grid"


def test_an_interrupted_plan_that_was_to_be_made_anew_with_prompts_is_not_taken_for_one_without(folder, monkeypatch):
    targets_of(folder)
    path = file_of(folder, detection("0.png"))
    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "write_plan", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ensure_plan(config_of(folder, prompts=path, replan=True))
    with pytest.raises(ConfigError, match="given prompts, which were not frozen to the end"):
        targets_of(folder)
    ensure_plan(config_of(folder, prompts=path, replan=True))
    with pytest.raises(ConfigError, match="given prompts, which were not frozen to the end"):
        targets_of(folder)
    assert targets_of(folder, prompts=path).mode == "prompted"


def test_an_interrupted_plan_that_was_to_be_made_anew_keeps_the_prompts_it_has(folder, monkeypatch):
    first = targets_of(folder, prompts=file_of(folder, detection("0.png")))
    path = file_of(folder, detection("1.png"), name="others.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "write_plan", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ensure_plan(config_of(folder, prompts=path, replan=True))
    assert targets_of(folder).pinned == first.pinned
    assert targets_of(folder, replan=True).mode == "grid"
