"""What an export has counted, as it is stored in the notes of its destination."""

from sam_pipeline.exports.report import Report

STORED = {
    "num_images": 3,
    "num_masks": 7,
    "images_left_out": {"not selected": 1},
    "masks_left_out": {"dropped in the review": 2},
    "met_of_review": {"images": 1, "masks": 2},
    "warnings": {"images that are gone": 1},
    "loss": {"num_masks": 7, "sum_iou": 6.5, "bins": {"1999": 7}},
}
"""As every version so far wrote it."""


def test_an_export_that_an_earlier_version_began_is_understood():
    report = Report.from_json(STORED)
    assert (report.num_masks, report.met_of_review["masks"], report.loss.bins[1999]) == (7, 2, 7)
    stored = report.to_json()
    assert stored | {"loss": stored["loss"] | {"bins": {"1999": 7}}} == STORED
