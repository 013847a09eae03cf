"""What reading tasks make of images, without a cluster."""

import numpy as np

from sam_pipeline.pipeline.workers.blocks import images_of
from sam_pipeline.pipeline.workers.columns import chunks_of
from sam_pipeline.pipeline.workers.stages import read_images
from tests.pipeline.jobs import Monitor


def read_tables(image_ids, job, chunk_rows=100, block_images=1):
    """What read_images makes of images, a table for each block."""
    chunks = chunks_of(np.array(image_ids), chunk_rows)
    return [images_of(block) for chunk in chunks for block in read_images(chunk, job, block_images, Monitor())]
