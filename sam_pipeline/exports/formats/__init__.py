"""The formats of exports, by name."""

from sam_pipeline.exports.format import Format
from sam_pipeline.exports.formats.amg import AMG
from sam_pipeline.exports.formats.coco import COCO
from sam_pipeline.exports.formats.coco_results import COCO_RESULTS
from sam_pipeline.exports.formats.hf import HF
from sam_pipeline.exports.formats.index_png import PNG
from sam_pipeline.exports.formats.labelme import LABELME
from sam_pipeline.exports.formats.sa1b import SA1B
from sam_pipeline.exports.formats.webdataset import WEBDATASET
from sam_pipeline.exports.formats.yolo import YOLO_BOX, YOLO_SEG
from sam_pipeline.exports.settings import ExportFormat

FORMATS: dict[ExportFormat, Format] = {
    "coco": COCO,
    "coco-results": COCO_RESULTS,
    "sa1b": SA1B,
    "amg": AMG,
    "yolo-seg": YOLO_SEG,
    "yolo-box": YOLO_BOX,
    "png": PNG,
    "labelme": LABELME,
    "webdataset": WEBDATASET,
    "hf": HF,
}
