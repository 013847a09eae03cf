"""Files that no clean dataset has: each ends as one row that says what became of it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.pictures import HEIGHT, WIDTH, photo
from tests.end_to_end.settings import SETTINGS, SMALL_SHARDS
from tests.end_to_end.tables import read_rows

pytestmark = pytest.mark.weights

UPRIGHT = ("ok", HEIGHT, WIDTH)
UNREADABLE = ("decode_error", None, None)


@pytest.fixture
def odd_folder(tmp_path):
    """A folder of good, odd and broken files, and the status and size that each must end with."""
    upright = Image.fromarray(photo(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    grey = np.asarray(upright.convert("L")).astype(np.uint16) * 257
    files = {
        "good.png": (_encode(upright, "PNG"), UPRIGHT),
        "rotated.png": (_encode(lying, "PNG", exif=exif), UPRIGHT),
        "tall.jpg": (_encode(upright, "JPEG", exif=exif), ("ok", WIDTH, HEIGHT)),
        "cmyk.jpg": (_encode(upright.convert("CMYK"), "JPEG"), UPRIGHT),
        "palette.png": (_encode(upright.quantize(16), "PNG"), UPRIGHT),
        "sixteen_bit.png": (_encode(Image.fromarray(grey), "PNG"), UPRIGHT),
        "text.jpg": (b"<html>404 Not Found</html>", UNREADABLE),
        "empty.jpg": (b"", UNREADABLE),
        "truncated.jpg": (_encode(upright, "JPEG")[:-2000], UNREADABLE),
        "huge.png": (_png_header(30_000, 30_000), ("too_large", None, None)),
    }
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "notes.txt").write_text("not an image, and does not claim to be")
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return folder, {name: expected for name, (_, expected) in files.items()}


def test_every_file_ends_as_one_row_with_its_status(odd_folder, start, tmp_path):
    folder, expected = odd_folder
    output = str(tmp_path / "out")
    arguments = ("--input", folder, "--output", output, *SETTINGS, *SMALL_SHARDS, "--num-cpus", 2)
    finished = start("annotate", *arguments).wait()
    assert finished.exit_code == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    rows = {row["uri"].rsplit("/", 1)[-1]: row for row in read_rows(output)}
    assert {name: (row["status"], row["height"], row["width"]) for name, row in rows.items()} == expected
    for name, row in rows.items():
        if row["status"] != "ok":
            assert row["masks"] == []
            assert row["error"], name
            assert "\n" not in row["error"]
            assert "0x" not in row["error"], "an address in memory is different each time"
    assert rows["good.png"]["masks"]
    assert rows["rotated.png"]["masks"] == rows["good.png"]["masks"]
    verified = start("verify", output).wait()
    assert verified.exit_code == 0, verified.stderr


def _encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_header(width, height):
    """A PNG of a hundred bytes that announces any number of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
