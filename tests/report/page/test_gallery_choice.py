"""Images that are shown, against all images sorted in memory."""

import numpy as np
import pytest

from sam_pipeline.report.counting.mask_numbers import read_mask_numbers
from sam_pipeline.report.page.gallery_choice import GalleryChoice
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.results import Results
from tests.report.runs import GRID, PROMPTED, prompt, write_run
from tests.storage.runs import failed_row, mask, row

NUM_IMAGES = 60


def rows(*, with_prompts):
    random = np.random.default_rng(1)
    for number in range(NUM_IMAGES):
        masks = [mask(seed) | {"predicted_iou": random.uniform(0.4, 1)} for seed in range(number % 7)]
        if with_prompts:
            masks = [each | prompt(index, category_id=(number + index) % 4) for index, each in enumerate(masks)]
        yield row(number, len(masks), masks=masks) if number != 11 else failed_row(number)


@pytest.fixture(scope="module", params=[False, True], ids=["grid", "prompted"])
def results(request, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("run"))
    fingerprint = PROMPTED if request.param else GRID
    return Results.open(write_run(output, list(rows(with_prompts=request.param)), fingerprint=fingerprint), {})


def chosen(results, num_pictures, seed=0):
    choice = GalleryChoice(num_pictures, seed)
    for numbers in read_mask_numbers(results):
        choice.watch(numbers)
    return {group.title: group for group in choice.groups(Categories({0: "cat", 1: "dog"}))}


def found(results):
    return [row for table in results.tables(["image_id", "status", "masks"]) for row in table.to_pylist()]


def test_each_image_is_shown_once_and_as_many_as_there_is_room_for(results):
    groups = chosen(results, 20)
    ids = [image_id for group in groups.values() for image_id in group.image_ids]
    assert len(ids) == len(set(ids)) == 20
    assert 11 not in ids


def test_what_stands_out_is_shown(results):
    groups = chosen(results, 20)
    ok = [row for row in found(results) if row["status"] == "ok"]
    counts = {row["image_id"]: len(row["masks"]) for row in ok}
    assert {counts[number] for number in groups["Most masks"].image_ids} == {max(counts.values())}
    assert {counts[number] for number in groups["Fewest masks"].image_ids} == {0}
    means = {row["image_id"]: np.mean([m["predicted_iou"] for m in row["masks"]]) for row in ok if row["masks"]}
    lowest = sorted(means, key=means.get)[: len(groups["Lowest predicted IoU"].image_ids)]
    assert set(groups["Lowest predicted IoU"].image_ids) == set(lowest)


def test_categories_and_boxes_are_of_prompts(results):
    groups = chosen(results, 40)
    if results.settings["mode"] == "grid":
        assert not {"By category", "Masks far from the box of their prompt"} & set(groups)
        return
    group = groups["By category"]
    categories = {row["image_id"]: {mask["category_id"] for mask in row["masks"]} for row in found(results)}
    names = {"cat": 0, "dog": 1, "2": 2, "3": 3}
    assert len(set(group.names)) == len(group.names) > 1
    assert all(names[name] in categories[number] for name, number in zip(group.names, group.image_ids, strict=True))
    assert groups["Masks far from the box of their prompt"].image_ids


def test_the_choice_is_the_same_again_and_another_with_another_seed(results):
    assert chosen(results, 20) == chosen(results, 20)
    assert chosen(results, 20)["At random"] != chosen(results, 20, seed=1)["At random"]


def test_random_ones_are_spread_over_the_run(results):
    ids = [number for seed in range(40) for number in chosen(results, 12, seed)["At random"].image_ids]
    assert len(set(ids)) > NUM_IMAGES / 2
    assert 20 < np.mean(ids) < 40


def test_few_images_are_all_shown_in_order(results):
    assert list(chosen(results, 100)) == ["All images"]
    assert chosen(results, 100)["All images"].image_ids == tuple(n for n in range(NUM_IMAGES) if n != 11)


@pytest.mark.parametrize("num_pictures", [0, 1, 3])
def test_a_small_gallery_is_no_larger_than_asked_for(results, num_pictures):
    assert sum(len(group.image_ids) for group in chosen(results, num_pictures).values()) == num_pictures
