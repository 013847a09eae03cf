"""What Ray Data moves from reading to decoding: a batch of images as one row.

Ray cuts a block that is larger than its target, and puts together what a task yields until it is as large. Both go by
rows. So a batch that is to cross the stages as it is, at the cost of one block, crosses as one row.
"""

from __future__ import annotations

import pyarrow as pa

_IMAGES = "images"


def as_block(images: pa.Table) -> pa.Table:
    """Images, a row each, as one row. Nothing is copied if the table's columns are in one piece."""
    (batch,) = images.combine_chunks().to_batches()
    rows = pa.ListArray.from_arrays(pa.array([0, len(batch)], pa.int32()), batch.to_struct_array())
    return pa.table({_IMAGES: rows})


def images_of(block: pa.Table) -> pa.Table:
    """What as_block took, of one batch or of several that Ray put together; nothing is copied."""
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(rows.flatten()) for rows in block[_IMAGES].chunks])
