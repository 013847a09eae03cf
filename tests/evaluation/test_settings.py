import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.settings import EvaluationSettings


def test_kinds_are_all_or_those_given_each_once():
    assert EvaluationSettings(ground_truth="a").kinds == ["mask", "box", "boundary"]
    assert EvaluationSettings(ground_truth="a", iou=["boundary", "mask", "mask"]).kinds == ["mask", "boundary"]


@pytest.mark.parametrize(("name", "value"), [("iou", ["segm"]), ("rank_by", "best"), ("ground_truth", 7)])
def test_what_there_is_not(name, value):
    with pytest.raises(ConfigError, match=name):
        EvaluationSettings(**{"ground_truth": "a"} | {name: value})
