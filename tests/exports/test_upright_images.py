"""Copies of images that stand upright without EXIF."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_pipeline.errors import OutputError
from sam_pipeline.exports.formats import hf
from sam_pipeline.exports.places import upright_images as upright
from sam_pipeline.exports.places.upright_images import GONE, TURNED, upright_image
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image
from sam_pipeline.storage.inputs.fetching import ChangedError
from tests.exports.pictures import in_list, in_tar, picture, pixels, run_of, turned
from tests.storage.image_files import FORMATS, noise, saved, variants


def stored_as(kind, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(pixels(0), kind, exif=exif, **options)


def as_stored(data):
    """The pixels of a file as a reader sees them that does not look at EXIF."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")])
def test_pixels_are_those_that_were_annotated(kind, suffix, orientation):
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(kind, {})
    data = stored_as(kind, orientation, **options)
    found = upright_image(data)
    annotated = np.asarray(decode_image(data, max_pixels=10**6))
    difference = np.abs(as_stored(found.data).astype(int) - annotated)
    assert difference.max() <= (6 if kind == "JPEG" else 0)
    assert found.suffix == suffix
    assert found.was_turned == (orientation != 1)
    assert (found.data == data) == (orientation == 1)


def test_what_is_upright_keeps_its_bytes():
    for kind in ("JPEG", "PNG", "BMP", "GIF"):
        assert upright_image(picture(0, kind) if kind == "JPEG" else saved(pixels(0), kind)).data


def test_what_is_no_image_is_an_error():
    with pytest.raises(DecodeError):
        upright_image(b"no image")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_limit_of_the_run_is_the_only_one_that_counts(kind, monkeypatch):
    data = saved(noise(100, 100), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # in place of 89 million, which would take seconds
    assert upright_image(data, 10_000).data == data
    with pytest.raises(TooLargeError):
        upright_image(data, 9_999)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("block", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk", b"junk"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_cost_the_copy(kind, block):
    data = saved(noise(), kind, exif=block)
    assert decode_image(data, max_pixels=1000).size == (16, 12)
    assert upright_image(data).data == data


@pytest.mark.parametrize("variant", [pytest.param(variant, id=variant.name) for variant in variants()])
def test_the_size_is_that_of_the_image_that_was_annotated(variant):
    size_hw = variant.pixels.shape[:2]
    assert upright_image(variant.data, size_hw=size_hw).data
    with pytest.raises(ChangedError):
        upright_image(variant.data, size_hw=size_hw[::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_is_that_of_the_upright_image(kind, orientation):
    data = stored_as(kind, orientation)
    assert upright_image(data, size_hw=decode_image(data, max_pixels=10**6).size[::-1]).data


@pytest.mark.parametrize(("kind", "name"), [("TIFF", "tiffinfo"), ("JPEG", "xmp"), ("WEBP", "xmp")])
def test_an_orientation_in_xmp_alone_counts_too(kind, name):
    text = b'<rdf:Description tiff:Orientation="6"/>'
    data = saved(noise(12, 16), kind, **{name: {700: text} if kind == "TIFF" else text})
    assert decode_image(data, max_pixels=1000).size == (12, 16)
    assert upright_image(data, size_hw=(16, 12)).was_turned


def test_an_image_of_a_list_that_was_replaced_by_one_of_another_size_is_not_copied(exported, tmp_path):
    """A list says no sizes of files, so nothing else tells."""
    run = run_of(tmp_path, {"0.jpg": picture(0), "1.jpg": turned(1), "2.jpg": picture(2)}, in_list)
    (tmp_path / "in" / "2.jpg").write_bytes(saved(pixels(2)[:-1], "JPEG"))
    for format, options in (("coco", {"images": "copy"}), ("hf", {}), ("coco", {"images": "symlink"})):
        dest, summary = exported(run, format, f"{format}-{options}", **options)
        assert sum(summary.warnings[name] for name in summary.warnings if "gone or changed" in name) == 1
        if format == "coco":
            assert sorted(path.name for path in dest.rglob("*.jpg")) == ["0.jpg", "1.jpg"]


def test_images_keep_their_order_whatever_the_order_of_their_archive(exported, tmp_path):
    import pyarrow.parquet as pq

    names = [f"{number}.jpg" for number in (3, 1, 4, 0, 2)]
    run = run_of(tmp_path, {name: picture(int(name[0])) for name in names}, in_tar)
    folder, _ = exported(run, "hf")
    rows = pq.read_table(folder / "data" / "train-000000.parquet").to_pylist()
    assert [row["file_name"] for row in rows] == sorted(names)
    assert [row["image"]["bytes"] for row in rows] == [picture(number) for number in range(5)]


@pytest.mark.parametrize("format", ["coco", "sa1b", "labelme", "yolo-box"])
def test_images_that_have_changed_are_neither_copied_nor_linked(exported, tmp_path, format):
    run = run_of(tmp_path, {"0.jpg": picture(0), "1.jpg": picture(1)})
    (tmp_path / "in" / "1.jpg").write_bytes(picture(5) + b"more")
    for how, words in (("copy", "have no copy"), ("symlink", "have no link")):
        dest, summary = exported(run, format, how, images=how)
        assert [path.name for path in dest.rglob("*.jpg")] == ["0.jpg"]
        assert summary.warnings[f"images are gone or changed, and {words}"] == 1


def test_images_that_wait_for_their_turn_lie_in_a_file(exported, tmp_path, monkeypatch):
    """Their archive may be in another order, and all of a batch would take gigabytes."""
    import pyarrow.parquet as pq

    monkeypatch.setattr(upright, "_BYTES_AT_ONCE", 1)
    files = {f"{number}.jpg": turned(number) if number == 2 else picture(number) for number in (3, 1, 4, 0, 2)}
    files["1.jpg"] = b"no image"
    folder, summary = exported(run_of(tmp_path, files, in_tar), "hf")
    rows = pq.read_table(folder / "data" / "train-000000.parquet").to_pylist()
    found = [row["image"] and row["image"]["bytes"] for row in rows]
    assert found == [files["0.jpg"], None, upright_image(files["2.jpg"]).data, files["3.jpg"], files["4.jpg"]]
    assert summary.warnings == {GONE: 1, TURNED: 1}


def test_a_full_disk_of_temporary_files_is_an_error_of_one_line(exported, tmp_path, monkeypatch):
    full = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115  the code that is tested closes it
    monkeypatch.setattr(upright.tempfile, "SpooledTemporaryFile", lambda _: full)
    run = run_of(tmp_path, {name: picture(0) for name in ("1.jpg", "0.jpg")}, in_tar)
    with pytest.raises(OutputError, match=r"cannot use output .*: .*No space left on device"):
        exported(run, "hf")


def test_row_groups_of_large_images_are_small(exported, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(hf, "_MOST_BYTES", 2 * len(picture(0)) - 1)
    folder, _ = exported(run_of(tmp_path, {f"{number}.jpg": picture(0) for number in range(5)}), "hf")
    metadata = pq.read_metadata(folder / "data" / "train-000000.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("format", "folder"), [("coco", "images/"), ("sa1b", ""), ("labelme", ""), ("yolo-box", "images/")]
)
def test_copies_beside_annotations_stand_upright(exported, tmp_path, format, folder):
    run = run_of(tmp_path, {"0.jpg": picture(0), "1.jpg": turned(1)})
    dest, summary = exported(run, format, images="copy")
    assert (dest / f"{folder}0.jpg").read_bytes() == picture(0)
    assert np.abs(as_stored((dest / f"{folder}1.jpg").read_bytes()).astype(int) - pixels(1)).max() <= 8
    assert summary.warnings[TURNED] == 1
