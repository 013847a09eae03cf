"""A whole listing at once, for tests."""

import pyarrow as pa

from sam_pipeline.config import SelectionConfig
from sam_pipeline.storage.inputs.listing.files import Listing, file_images
from sam_pipeline.storage.inputs.selection import select


def list_images(input_uri, options):
    """All images of an input in the order of their URIs; see file_images."""
    parts = list(file_images(input_uri, options))
    images = select(pa.concat_tables([part.images for part in parts]), SelectionConfig()).images
    return Listing(images, sum(part.num_skipped for part in parts))
