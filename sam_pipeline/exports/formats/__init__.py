"""The formats of exports, by name."""

from sam_pipeline.exports.format import Format
from sam_pipeline.exports.formats.coco import COCO

FORMATS: dict[str, Format] = {"coco": COCO}
