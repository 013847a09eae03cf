from dataclasses import replace

import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.ground_truth.annotation_file import GroundTruth
from sam_pipeline.evaluation.ground_truth.category_matching import match_categories
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.evaluation.compared import prompted, rectangle, saved_run, stored

SHAPE = rectangle(1, 2, 3, 4)
TRUTH = GroundTruth("truth.json", [], {}, {1: "cat", 18: "Dog"}, 0, 0)


def match(folder, category_ids, names=None, selection=None, class_agnostic=False, truth=TRUTH):
    folder.mkdir(exist_ok=True)
    masks = [prompted(SHAPE, category_id=number) if number is not None else stored(SHAPE) for number in category_ids]
    results = Results.open(saved_run(folder / "run", [masks]), {}, selection or MaskSelection())
    place = None
    if names is not None:
        place = str(folder / "names.txt")
        (folder / "names.txt").write_text("\n".join(names))
    return match_categories(results, truth, class_agnostic=class_agnostic, place=place)


def test_by_number_where_no_names_are_known(tmp_path):
    found = match(tmp_path, [1, 7])
    assert not found.class_agnostic
    assert [found.of_mask(number) for number in (1, 7, None)] == [1, None, None]
    assert [found.of_object(number) for number in (18, 7, None)] == [18, None, None]


def test_by_name_where_names_are_known(tmp_path):
    """The numbers of a detector begin at 0, and 1 is another category than in the ground truth."""
    found = match(tmp_path, [0, 1, 2], ["dog ", "cow", "cat"])
    assert [found.of_mask(number) for number in (0, 1, 2)] == [18, None, 1]


@pytest.mark.parametrize(
    ("theirs", "ours", "found"),
    [
        (["Dog", "dog"], ["Dog", "dog"], [0, 1]),
        (["dog", "Dog"], ["Dog", "dog"], [1, 0]),
        (["Dog", "dog"], ["DOG", "dog"], [None, 1]),
        (["dog", "cat"], ["Dog", "dog"], [None, 0]),
        (["DOG", "cat"], [" dog", "Cat"], [0, 1]),
    ],
)
def test_names_that_differ_in_case_alone_are_different_where_both_are_there(tmp_path, theirs, ours, found):
    truth = replace(TRUTH, categories=dict(enumerate(theirs)))
    matched = match(tmp_path, [0, 1], ours, truth=truth)
    assert [matched.of_mask(number) for number in (0, 1)] == found


@pytest.mark.parametrize(
    ("category_ids", "selection", "class_agnostic"),
    [([None], None, False), ([1, None], MaskSelection(source="grid"), False), ([1], None, True)],
)
def test_class_agnostic(tmp_path, category_ids, selection, class_agnostic):
    found = match(tmp_path, category_ids, selection=selection, class_agnostic=class_agnostic)
    assert found.class_agnostic
    assert found.of_mask(None) == found.of_mask(7) == found.of_object(18) == found.of_object(None)
    assert list(found.names.values()) == ["object"]


def test_nothing_in_common(tmp_path):
    with pytest.raises(ConfigError, match=r"no category in common: the run has 5 \('5'\), for example.*1 \('cat'\)"):
        match(tmp_path, [5])
    with pytest.raises(ConfigError, match=r"the run has 1 \('cow'\), for example"):
        match(tmp_path / "named", [1], ["horse", "cow"])
    with pytest.raises(ConfigError, match=r"truth.json has no categories"):
        match(tmp_path / "none", [1], truth=replace(TRUTH, categories={}))
