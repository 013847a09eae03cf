"""The formats of exports, by name."""

from sam_pipeline.exports.format import Format
from sam_pipeline.exports.formats.amg import AMG
from sam_pipeline.exports.formats.coco import COCO
from sam_pipeline.exports.formats.coco_results import COCO_RESULTS
from sam_pipeline.exports.formats.sa1b import SA1B
from sam_pipeline.exports.settings import ExportFormat

FORMATS: dict[ExportFormat, Format] = {
    "coco": COCO,
    "coco-results": COCO_RESULTS,
    "sa1b": SA1B,
    "amg": AMG,
}
