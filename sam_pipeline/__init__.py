"""Dataset-scale Segment Anything masks: images in object storage in, Parquet shards of scored RLE masks out."""

__version__ = "0.1.0"
