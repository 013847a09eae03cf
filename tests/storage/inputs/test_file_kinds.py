import io

import pytest
from PIL import Image

from sam_pipeline.storage.inputs.decoding.image_reading import FORMATS
from sam_pipeline.storage.inputs.file_kinds import HEAD_BYTES, container_of, is_image_data
from tests.storage.image_files import noise, saved


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_images_of_every_format_that_is_read_are_known(kind):
    assert is_image_data(saved(noise(20, 30), kind)[:HEAD_BYTES])


@pytest.mark.parametrize("data", [b"", b"BM", b"<html></html><html>", bytes(HEAD_BYTES), b"PK\x03\x04" + bytes(99)])
def test_other_files_are_no_images(data):
    assert not is_image_data(data)


def test_formats_that_are_not_read_are_no_images():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PPM")
    assert not is_image_data(buffer.getvalue())


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"PAR1", "a Parquet file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "a gzipped file"),
        (bytes(257) + b"ustar\x0000", "a tar archive"),
        (b"", None),
        (b"text", None),
    ],
)
def test_containers_are_known_by_their_marks(head, what):
    assert container_of(head) == what
