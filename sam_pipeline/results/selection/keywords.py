"""Every setting of a selection as a keyword of `Run.filter`, for type checkers; MaskSelection says what each means."""

from typing import TypedDict

from sam_pipeline.results.selection.mask_selection import Contained, MaskSource


class SelectionSettings(TypedDict, total=False):
    """The settings of MaskSelection by name."""

    pred_iou_thresh: float | None
    stability_score_thresh: float | None
    box_nms_thresh: float | None
    min_score: float | None
    min_area: int | None
    max_area_share: float | None
    max_masks: int | None
    min_box_iou: float | None
    category_ids: list[int] | tuple[int, ...]
    source: MaskSource
    drop_contained: Contained
    drop_border: bool
    include: list[str] | tuple[str, ...]
    exclude: list[str] | tuple[str, ...]
