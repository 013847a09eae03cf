"""What orders masks: average precision and recall ask for the best ones first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.settings import RankBy
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.choosing import list_array


def resolve_ranking(results: Results, rank_by: RankBy) -> RankBy:
    """What auto means for a run: score where every mask that the selection keeps has one, else predicted_iou.

    Raises:
        OutputError, StorageUnavailableError: the results cannot be read.
    """
    if rank_by != "auto":
        return rank_by
    num_scores = 0
    for rows in results.tables(["masks"], mask_fields=["score"]):
        scores = list_array(rows["masks"]).flatten().field("score")
        if scores.null_count:
            return "predicted_iou"
        num_scores += len(scores)
    return "score" if num_scores else "predicted_iou"


def ranks(masks: pa.StructArray, rank_by: RankBy) -> NDArray[np.float64]:
    """The score of each mask in its ranking, (N,); higher is better.

    Raises:
        ConfigError: masks without a score are to be ranked by it.
    """

    def number(name: str) -> NDArray[np.float64]:
        return np.asarray(masks.field(name).cast(pa.float64()), np.float64)

    if rank_by == "mean":
        return (number("predicted_iou") + number("stability_score")) / 2
    if rank_by == "score" and masks.field("score").null_count:
        raise ConfigError("rank_by = score needs masks with a score of the detector, and some have none; use another")
    return number(rank_by)
