"""What orders masks: average precision and recall ask for the best ones first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.settings import RankBy
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.choosing import list_array
from sam_pipeline.storage.tables.result_reading import iterate_row_groups


def resolve_ranking(results: Results, rank_by: RankBy) -> RankBy:
    """What auto means for a run: score where every mask has one, else predicted_iou. Reads two small columns."""
    if rank_by != "auto":
        return rank_by
    num_scores, source = 0, results.selection.source
    for group in iterate_row_groups(results.table, results.storage_options):
        masks = list_array(group.read([], ["prompt_id", "score"])["masks"]).flatten()
        is_prompted, has_score = masks.field("prompt_id").is_valid(), masks.field("score").is_valid()
        wanted = is_prompted if source == "prompts" else pc.invert(is_prompted) if source == "grid" else None
        has_score = has_score if wanted is None else has_score.filter(wanted)
        if pc.all(has_score, min_count=0).as_py() is False:
            return "predicted_iou"
        num_scores += len(has_score)
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
