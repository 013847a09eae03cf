import numpy as np
import pyarrow as pa
import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.ranking import ranks, resolve_ranking
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from tests.evaluation.compared import prompted, rectangle, saved_run, stored

SHAPE = rectangle(1, 2, 3, 4)
SCORED, UNSCORED, OF_GRID = prompted(SHAPE), prompted(SHAPE, score=None), stored(SHAPE)


@pytest.mark.parametrize(
    ("masks", "selection", "rank_by"),
    [
        ([SCORED, SCORED], {}, "score"),
        ([SCORED, UNSCORED], {}, "predicted_iou"),
        ([SCORED, OF_GRID], {}, "predicted_iou"),
        ([SCORED, OF_GRID], {"source": "prompts"}, "score"),
        ([SCORED, OF_GRID], {"source": "grid"}, "predicted_iou"),
        ([OF_GRID], {}, "predicted_iou"),
        ([], {}, "predicted_iou"),
        ([SCORED, UNSCORED], {"min_score": 0.1}, "score"),
        ([SCORED, OF_GRID], {"category_ids": (1,)}, "score"),
        ([SCORED, UNSCORED], {"include": ("0000.jpg",)}, "predicted_iou"),
    ],
)
def test_auto_is_the_score_where_every_mask_has_one(tmp_path, masks, selection, rank_by):
    results = Results.open(saved_run(tmp_path / "run", [[], masks]), {}, MaskSelection(**selection))
    assert resolve_ranking(results, "auto") == rank_by
    assert resolve_ranking(results, "mean") == "mean"


def test_ranks():
    fields = ("predicted_iou", "stability_score", "score")
    masks = pa.array([dict(zip(fields, row, strict=True)) for row in ([0.5, 0.75, 3.0], [1.0, 0.25, 2.0])])
    for rank_by, expected in {"predicted_iou": [0.5, 1], "mean": [0.625, 0.625], "score": [3, 2]}.items():
        np.testing.assert_array_equal(ranks(masks, rank_by), expected)


def test_no_score_to_rank_by():
    masks = pa.array([{"score": 1.0}, {"score": None}])
    with pytest.raises(ConfigError, match="some have none"):
        ranks(masks, "score")
