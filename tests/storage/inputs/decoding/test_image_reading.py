import io
import struct
import threading
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sam_pipeline.storage.inputs.decoding import image_reading
from sam_pipeline.storage.inputs.decoding.image_reading import DecodeError, TooLargeError, decode_image
from tests.storage.image_files import FORMATS, bmp, noise, png, png_chunk, saved, smooth, tiff, variants

LIMIT = 100_000_000
WHITE = [255, 255, 255]


def decoded(data, max_pixels=LIMIT):
    image = decode_image(data, max_pixels=max_pixels)
    assert image.mode == "RGB"
    return np.asarray(image)


def error_of(data):
    with pytest.raises(DecodeError) as caught:
        decode_image(data, max_pixels=LIMIT)
    message = str(caught.value)
    assert message.isprintable()
    assert " at 0x" not in message
    with pytest.raises(DecodeError) as again:
        decode_image(bytes(data), max_pixels=LIMIT)
    assert str(again.value) == message
    return message


def pillow_rgb(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_gives_the_pixels_that_pillow_reads(kind):
    data = saved(noise(), kind)
    np.testing.assert_array_equal(decoded(data), pillow_rgb(data))


@pytest.mark.parametrize("variant", [pytest.param(variant, id=variant.name) for variant in variants()])
def test_every_mode_depth_and_compression_gives_its_pixels(variant):
    pixels = decoded(variant.data)
    assert pixels.shape == variant.pixels.shape
    assert abs(pixels.astype(int) - variant.pixels).max() <= variant.tolerance


@pytest.mark.parametrize("kind", ["EPS", "PCX", "ICO", "PPM", "TGA", "SGI", "JPEG2000", "AVIF", "ICNS", "DDS", "PDF"])
def test_formats_outside_the_allow_list_are_refused(kind):
    message = error_of(saved(noise(), kind))
    assert message.startswith("not a readable JPEG, PNG, WEBP, TIFF, BMP or GIF file; it begins with b")


ALPHA_MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def bmp_with_alpha(rgba):
    stored = np.ascontiguousarray(rgba[::-1, :, [2, 1, 0, 3]]).tobytes()
    return bmp(32, stored, compression=3, masks=ALPHA_MASKS, width=rgba.shape[1], height=rgba.shape[0])


def tiff_with_fourth_sample(rgba, extra_sample):
    options = {"byte_order": "little", "bits": 8, "channels": 4, "photometric": 2, "extra_sample": extra_sample}
    return tiff(rgba.shape[1], rgba.shape[0], [rgba.tobytes()], **options)


def with_alpha(alpha):
    return np.concatenate([noise(), np.full((12, 16, 1), alpha, np.uint8)], axis=2)


FILES_WITH_FOURTH_CHANNEL = {
    "bmp": bmp_with_alpha,
    "tiff without word of it": lambda rgba: tiff_with_fourth_sample(rgba, None),
    "tiff that says unspecified": lambda rgba: tiff_with_fourth_sample(rgba, 0),
    "tiff of Corel Draw": lambda rgba: tiff_with_fourth_sample(rgba, 999),
}


@pytest.mark.parametrize("kind", FILES_WITH_FOURTH_CHANNEL)
def test_an_alpha_that_no_program_filled_hides_nothing(kind):
    np.testing.assert_array_equal(decoded(FILES_WITH_FOURTH_CHANNEL[kind](with_alpha(0))), noise())


def test_a_bmp_of_which_one_pixel_is_not_transparent_has_alpha():
    rgba = with_alpha(0)
    rgba[3, 5, 3] = 255
    pixels = decoded(bmp_with_alpha(rgba))
    assert pixels[3, 5].tolist() == rgba[3, 5, :3].tolist()
    assert (np.delete(pixels.reshape(-1, 3), 3 * 16 + 5, axis=0) == 255).all()


@pytest.mark.parametrize("data", [saved(with_alpha(0), "PNG"), tiff_with_fourth_sample(with_alpha(0), 2)])
def test_a_picture_that_says_it_is_transparent_everywhere_is_white(data):
    assert (decoded(data) == 255).all()


def test_an_empty_file_is_a_decode_error():
    assert error_of(b"") == "the file is empty"


def test_a_text_file_named_jpg_is_told_by_its_first_bytes():
    message = error_of(b"see you later\n")
    assert message == "not a readable JPEG, PNG, WEBP, TIFF, BMP or GIF file; it begins with b'see you later\\n'"


def test_a_web_page_saved_as_jpg_is_told_by_its_first_bytes():
    assert "it begins with b'<!DOCTYPE html>" in error_of(b"<!DOCTYPE html>\n<html><body>404</body></html>")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_a_decode_error(kind, share):
    data = saved(noise(64, 64), kind)
    assert error_of(data[: int(len(data) * share)]).startswith("cannot be decoded")


def test_a_truncated_jpeg_says_so():
    data = saved(noise(64, 64), "JPEG")
    assert error_of(data[:-100]).startswith("cannot be decoded as JPEG: image file is truncated")


JPEGS = {variant.name: variant.data for variant in variants() if variant.name.startswith("jpeg ")}


@pytest.mark.parametrize("name", [name for name in JPEGS if name != "jpeg mpo"])
@pytest.mark.parametrize("num_bytes", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_has_all_its_pixels(name, num_bytes):
    np.testing.assert_array_equal(decoded(JPEGS[name][:-num_bytes]), decoded(JPEGS[name]))


@pytest.mark.parametrize("name", [name for name in JPEGS if name != "jpeg mpo"])
def test_a_jpeg_cut_anywhere_is_an_error_or_has_all_its_pixels(name):
    data = JPEGS[name]
    whole = decoded(data)
    num_errors = 0
    for num_bytes in range(3, len(data) - 2, 1 if len(data) < 2000 else 3):
        try:
            pixels = decoded(data[:-num_bytes])
        except DecodeError:
            num_errors += 1
        else:
            np.testing.assert_array_equal(pixels, whole, err_msg=f"cut by {num_bytes} bytes")
    assert num_errors > 100


def test_a_jpeg_without_its_end_marker_that_takes_long_is_an_error(monkeypatch):
    data = with_more_scans(100, 64)[:-2]
    assert decoded(data).shape == (64, 64, 3)
    monkeypatch.setattr(image_reading, "_MAX_SCANNED_PIXELS", 16 * 100 * 64 * 64)  # there are some scans more than 100
    assert "truncated" in error_of(data)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_other_formats_that_lack_only_their_end_marker_have_all_their_pixels_too(kind):
    data = saved(noise(), kind)
    np.testing.assert_array_equal(decoded(data[: -{"PNG": 12, "GIF": 1}[kind]]), decoded(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_within_its_signature_is_a_decode_error(kind):
    assert "begins with" in error_of(saved(noise(), kind)[:3])


def test_truncated_files_are_errors_even_where_another_library_tolerates_them(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(noise(64, 64), "JPEG")
    assert "truncated" in error_of(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_an_image_without_pixels_is_a_decode_error():
    error_of(png(0, 5, 8, 2))
    assert error_of(struct.pack("<6sHHBBB", b"GIF89a", 0, 0, 0, 0, 0) + b",\0\0\0\0\0\0\0\0\0\2\0;")


def test_a_huge_header_is_refused_at_once_and_without_memory():
    data = png(30_000, 30_000, 8, 2)
    assert len(data) < 100
    with pytest.raises(TooLargeError):
        decode_image(data, max_pixels=LIMIT)  # imports what Pillow loads on first use
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(TooLargeError) as caught:
        decode_image(data, max_pixels=LIMIT)
    seconds, peak_bytes = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value) == "900000000 pixels, the limit is 100000000"
    assert seconds < 1
    assert peak_bytes < 2**20


def test_the_limit_counts_pixels_and_is_inclusive():
    data = saved(noise(12, 16), "WEBP")
    assert decoded(data, max_pixels=12 * 16).shape == (12, 16, 3)
    with pytest.raises(TooLargeError, match=r"^16x12 pixels, the limit is 191$"):
        decode_image(data, max_pixels=12 * 16 - 1)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_limit_above_pillows_own_is_the_only_one_that_counts(kind, monkeypatch):
    data = saved(noise(100, 100), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # in place of 89 million, which would take seconds
    with pytest.raises(Image.DecompressionBombError), Image.open(io.BytesIO(data)) as image:
        image.load()
    assert decoded(data).shape == (100, 100, 3)


def test_a_gif_frame_beyond_its_screen_counts_with_its_full_size():
    screen = struct.pack("<6sHHBBB", b"GIF89a", 1, 1, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\2\0;"
    with pytest.raises(TooLargeError, match="3600000000 pixels, the limit is 100000000"):
        decode_image(screen + frame, max_pixels=LIMIT)


def test_pillows_settings_and_the_warning_filters_are_put_back(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1234)
    assert TiffImagePlugin.READ_LIBTIFF is False
    filters = list(warnings.filters)
    decode_image(saved(noise(100, 100), "PNG"), max_pixels=LIMIT)
    with pytest.raises(TooLargeError):
        decode_image(png(30_000, 30_000, 8, 2), max_pixels=LIMIT)
    assert Image.MAX_IMAGE_PIXELS == 1234
    assert TiffImagePlugin.READ_LIBTIFF is False
    assert list(warnings.filters) == filters


def test_threads_with_different_limits_do_not_disturb_one_another():
    small, large = saved(noise(10, 10), "PNG"), png(30_000, 30_000, 8, 2)
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    wrong = []

    def work(max_pixels):
        for _ in range(40):
            decode_image(small, max_pixels=max_pixels)
            try:
                decode_image(large, max_pixels=max_pixels)
            except TooLargeError as error:
                if not str(error).endswith(f"the limit is {max_pixels}"):
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(max_pixels,)) for max_pixels in (100, 10_000, 1_000_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_running_out_of_memory_is_an_answer_and_not_a_crash(monkeypatch):
    def load(image):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(TooLargeError, match="not enough memory"):
        decode_image(saved(noise(), "BMP"), max_pixels=LIMIT)


def test_a_large_image_is_converted_in_bands_that_join_without_a_seam(monkeypatch):
    monkeypatch.setattr(image_reading, "_BAND_PIXELS", 50)
    grey, transparent = saved(noise(37, 16)[..., 0], "PNG"), saved(noise(37, 16, 4), "PNG")
    np.testing.assert_array_equal(decoded(grey), noise(37, 16)[..., :1].repeat(3, axis=2))
    in_bands = decoded(transparent)
    monkeypatch.undo()
    np.testing.assert_array_equal(in_bands, decoded(transparent))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes_survive(height, width):
    np.testing.assert_array_equal(decoded(saved(noise(height, width), "PNG")), noise(height, width))


# 0, the two sides of each rounding step near the ends and the middle, and the largest value.
SAMPLES_16 = np.array([[0, 1, 128, 129, 257, 385, 386, 0x7FFF, 0x8000, 65406, 65407, 0xFFFF]], np.uint16)
GREYS_8 = [0, 0, 0, 1, 1, 1, 2, 127, 128, 254, 255, 255]


def grey_16_bit_files():
    yield "png", saved(Image.fromarray(SAMPLES_16), "PNG")
    for order, code in (("little", "<"), ("big", ">")):
        samples = SAMPLES_16.astype(code + "u2").tobytes()
        yield f"tiff, {order} endian", tiff(SAMPLES_16.size, 1, [samples], byte_order=order, bits=16)


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in grey_16_bit_files()])
def test_16_bit_grey_is_scaled_and_not_clipped(data):
    pixels = decoded(data)
    assert pixels[0, :, 0].tolist() == GREYS_8
    assert (pixels == pixels[..., :1]).all()


def test_16_bit_colour_keeps_its_high_bytes():
    rgb = noise().astype(np.uint16) * 256 + 77
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    np.testing.assert_array_equal(decoded(png(16, 12, 16, 2, rows)), noise())


def test_signed_samples_below_zero_are_a_decode_error():
    samples = np.array([-1, 5], "<i2").tobytes()
    assert "integer samples beyond 16 bits" in error_of(
        tiff(2, 1, [samples], byte_order="little", bits=16, sample_format=2)
    )


def test_32_bit_integers_beyond_16_bits_are_a_decode_error():
    assert "no defined range" in error_of(saved(np.array([[0, 70_000]], np.int32), "TIFF"))


@pytest.mark.parametrize("order", ["little", "big"])
def test_floating_point_tiff_is_a_decode_error(order):
    samples = np.ones((2, 2), "<f4" if order == "little" else ">f4").tobytes()
    data = tiff(2, 2, [samples], byte_order=order, bits=32, sample_format=3)
    assert error_of(data) == "floating-point samples have no defined range"


def test_1_bit_images_become_black_and_white():
    bits = noise(9, 9, 1)[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        pixels = decoded(saved(Image.fromarray(bits), kind))
        np.testing.assert_array_equal(pixels, np.repeat(bits[..., None], 3, axis=2) * np.uint8(255))


def test_grey_becomes_three_equal_channels():
    grey = noise(channels=1)[..., 0]
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decoded(saved(grey, kind)), np.repeat(grey[..., None], 3, axis=2))


def palette_image():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes_become_their_colours(kind):
    expected = [[[10, 20, 30], [200, 100, 50]], [[0, 0, 255], [200, 100, 50]]]
    assert decoded(saved(palette_image(), kind)).tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_transparent_entry_of_a_palette_becomes_white(kind):
    data = saved(palette_image(), kind, transparency=1)
    assert decoded(data).tolist() == [[[10, 20, 30], WHITE], [[0, 0, 255], WHITE]]


def test_a_palette_with_an_alpha_for_each_entry_is_composed_over_white():
    data = saved(palette_image(), "PNG", transparency=bytes([255, 0, 51]))
    # 51 is a fifth: 0.2 · (0, 0, 255) + 0.8 · white.
    assert decoded(data).tolist() == [[[10, 20, 30], WHITE], [[204, 204, 255], WHITE]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_rgba_is_composed_over_white(kind):
    rgba = np.array([[[0, 100, 200, 255], [0, 100, 200, 0], [0, 100, 200, 51]]], np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decoded(saved(rgba, kind, **options))
    assert pixels.tolist() == [[[0, 100, 200], WHITE, [204, 224, 244]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composed_over_white(kind):
    pixels = decoded(saved(np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8), kind))
    assert pixels.tolist() == [[[100] * 3, WHITE, [224] * 3]]


def test_a_transparent_colour_named_in_a_png_becomes_white():
    rgb = np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8)
    assert decoded(saved(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3))).tolist() == [[WHITE, [9, 9, 9]]]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert decoded(saved(grey, "PNG", transparency=7)).tolist() == [[WHITE, [8, 8, 8]]]


RED_PART, GREEN_PART = (220, 30, 40), (20, 200, 60)


def two_colours(make):
    """A 32×64 image, made of a left and a right half; halves are whole 16-pixel blocks, so that JPEG keeps them."""
    values = np.zeros((32, 64, len(make(RED_PART))), np.uint8)
    values[:, :32], values[:, 32:] = make(RED_PART), make(GREEN_PART)
    return values


def assert_two_colours(pixels):
    # JPEG at quality 100 rounds each of its four components once; the conversion to RGB at most doubles it.
    assert abs(pixels[:, :32].astype(int) - RED_PART).max() <= 3
    assert abs(pixels[:, 32:].astype(int) - GREEN_PART).max() <= 3


def test_cmyk_jpeg_becomes_rgb():
    inks = two_colours(lambda rgb: (*(255 - channel for channel in rgb), 0))
    data = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0)
    assert_two_colours(decoded(data))


def test_ycck_jpeg_becomes_rgb():
    def ycck(rgb):
        # Adobe stores the inks inverted, hence RGB itself; libjpeg's YCCK is the YCbCr of the inks' complement.
        luma_chroma = (
            Image.new("RGB", (1, 1), tuple(255 - channel for channel in rgb)).convert("YCbCr").getpixel((0, 0))
        )
        return tuple(255 - channel for channel in (*luma_chroma, 255))  # Pillow inverts what it writes

    data = saved(Image.fromarray(two_colours(ycck), "CMYK"), "JPEG", quality=100, subsampling=0)
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0, "the transform byte: plain CMYK"
    assert_two_colours(decoded(data[: marker + 11] + b"\x02" + data[marker + 12 :]))


def test_embedded_colour_profiles_are_ignored():
    np.testing.assert_array_equal(decoded(saved(noise(), "PNG", icc_profile=b"no profile at all")), noise())


ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def exif(orientation):
    directory = Image.Exif()
    directory[0x0112] = orientation
    return directory


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind, orientation):
    plain = decoded(saved(noise(), kind))
    turned = decoded(saved(noise(), kind, exif=exif(orientation)))
    np.testing.assert_array_equal(turned, ORIENTED[orientation](plain))


@pytest.mark.parametrize("orientation", ORIENTED)
def test_bands_of_a_turned_image_join_in_the_right_order(orientation, monkeypatch):
    monkeypatch.setattr(image_reading, "_BAND_PIXELS", 50)
    in_bands = decoded(saved(noise(37, 16, 4), "PNG", exif=exif(orientation)))
    monkeypatch.undo()
    np.testing.assert_array_equal(in_bands, ORIENTED[orientation](decoded(saved(noise(37, 16, 4), "PNG"))))


def test_an_image_is_not_left_unturned_for_want_of_memory(monkeypatch):
    def transpose(image, method):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "transpose", transpose)
    with pytest.raises(TooLargeError, match="not enough memory"):
        decode_image(saved(noise(), "JPEG", exif=exif(6)), max_pixels=LIMIT)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_leaves_the_image_as_it_is(orientation):
    data = saved(noise(), "JPEG", exif=exif(orientation))
    np.testing.assert_array_equal(decoded(data), decoded(saved(noise(), "JPEG")))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", b"Exif\0\0junk"]
)
def test_damaged_exif_does_not_cost_the_image(block):
    data = saved(noise(), "JPEG", exif=block)
    np.testing.assert_array_equal(decoded(data), decoded(saved(noise(), "JPEG")))


def test_an_orientation_of_the_wrong_type_does_not_cost_the_image():
    directory = ImageFileDirectory_v2()
    directory.tagtype[0x0112] = 2
    directory[0x0112] = "sideways"
    stream = io.BytesIO()
    directory.save(stream)
    data = saved(noise(), "JPEG", exif=b"Exif\0\0" + stream.getvalue())
    np.testing.assert_array_equal(decoded(data), decoded(saved(noise(), "JPEG")))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_of_an_animation_the_first_frame_counts(kind, options):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert (decoded(data) == [255, 0, 0]).all()


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(saved(noise(), kind), id=kind) for kind in FORMATS),
        pytest.param(saved(noise(), "JPEG", progressive=True), id="progressive"),
        pytest.param(saved(noise(), "JPEG", exif=exif(6)), id="turned"),
        pytest.param(saved(noise(), "MPO", save_all=True, append_images=[Image.fromarray(noise(seed=1))]), id="MPO"),
        pytest.param(
            saved(noise(), "WEBP", save_all=True, append_images=[Image.fromarray(noise(seed=1))]), id="animated"
        ),
        pytest.param(saved(noise(), "JPEG")[:-2], id="cut"),
    ],
)
def test_a_decoded_image_is_cut_and_resized_like_its_pixels(data):
    image = decode_image(data, max_pixels=LIMIT)
    again = Image.fromarray(decoded(data))
    for size in ((5, 7), (40, 30)):
        resized, expected = (one.resize(size, Image.Resampling.BILINEAR) for one in (image, again))
        np.testing.assert_array_equal(np.asarray(resized), np.asarray(expected))
    box = (1, 2, image.width, image.height - 1)
    np.testing.assert_array_equal(np.asarray(image.crop(box)), np.asarray(again.crop(box)))


def test_of_a_jpeg_with_more_pictures_behind_it_the_first_counts():
    data = saved(noise(), "MPO", save_all=True, append_images=[Image.fromarray(noise(seed=1))])
    np.testing.assert_array_equal(decoded(data), decoded(saved(noise(), "JPEG")))


def too_large(data, max_pixels=LIMIT):
    with pytest.raises(TooLargeError) as caught:
        decode_image(data, max_pixels=max_pixels)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "bytes_per_pixel"),
    [
        pytest.param(saved(noise(64, 64), "WEBP"), 16, id="two canvases, a copy and an image"),
        pytest.param(saved(Image.fromarray(smooth(4), "CMYK"), "JPEG"), 12, id="four channels of coefficients"),
        pytest.param(
            tiff(64, 64, [bytes(64 * 64 * 8)], byte_order="little", bits=16, channels=4, photometric=2, extra_sample=2),
            12,
            id="one strip of 16 bits",
        ),
    ],
)
def test_what_takes_more_memory_than_others_may_have_fewer_pixels(data, bytes_per_pixel, monkeypatch):
    num_bytes = bytes_per_pixel * decoded(data)[..., 0].size
    monkeypatch.setattr(image_reading, "_MAX_BYTES", num_bytes - 1)
    assert too_large(data).endswith(f"need {num_bytes} bytes to be decoded, the limit is {num_bytes - 1}")
    decoded(data, max_pixels=2 * LIMIT)


def test_a_tile_much_larger_than_its_image_is_refused():
    data = tiff(64, 64, [b""], byte_order="little", bits=8, channels=3, photometric=2, compression=8, tile=26_000)
    assert "64x64 pixels need 2028016384 bytes" in too_large(data)


def test_run_lengths_of_a_bmp_are_decoded_in_python_and_limited():
    palette = noise(1, 256)[0]
    data = bmp(8, b"\0\0" * 10_000 + b"\0\1", compression=1, palette=palette, width=10_000, height=10_000)
    assert too_large(data) == "10000x10000 pixels with run-length encoding, the limit is 25000000"
    assert too_large(data, max_pixels=3 * LIMIT).endswith("the limit is 75000000")


def with_more_scans(num_scans, side):
    """A progressive JPEG that says it is large, with its last scan repeated."""
    data = bytearray(saved(Image.new("L", (64, 64), 99), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2") + 5
    data[frame : frame + 4] = struct.pack(">HH", side, side)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return bytes(data[:-2] + scan * num_scans + data[-2:])


def test_thousands_of_scans_are_refused_where_they_take_long():
    assert decoded(with_more_scans(1000, 64)).shape == (64, 64, 3)
    assert too_large(with_more_scans(1000, 10_000)).startswith("10000x10000 pixels in 10")


def test_what_only_looks_like_scans_is_none(monkeypatch):
    film = b"\xff\xda" * 100_000 + noise(1000, 1000).tobytes()  # phones append a film to a photograph
    monkeypatch.setattr(image_reading, "_MAX_SCANNED_PIXELS", 12 * 16)
    decoded(saved(noise(), "JPEG") + film)


def test_a_tiff_that_lists_its_strip_thousands_of_times_is_decoded_once():
    strips = {278: [1999], 273: [8] * 2000, 279: [1999 * 6000] * 2000}  # wherever they begin, there are bytes enough
    file = {"byte_order": "little", "bits": 8, "channels": 3, "photometric": 2, "tags": strips}
    start = time.process_time()
    decoded(tiff(2000, 2000, [bytes(2000 * 6000)], **file))
    assert time.process_time() - start < 3  # 0.05; as many times as it says, 20


def test_a_thousand_colour_profiles_are_refused_before_they_are_inflated():
    profile = png_chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(2**20 - 1)))
    assert error_of(png(1, 1, 8, 0, b"\0\0", extra=profile * 1000)) == "more than 100 colour profiles"
    decoded(png(1, 1, 8, 0, b"\0\0", extra=profile * 2))


def test_large_text_in_a_png_ends_as_a_decode_error_and_not_in_memory():
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))
    assert error_of(png(1, 1, 8, 0, b"\0\0", extra=bomb)).startswith("cannot be decoded")


SOUND_FILES = [saved(noise(40, 40), kind) for kind in FORMATS] + [
    saved(noise(40, 40), "JPEG", progressive=True, exif=exif(6)),
    saved(noise(40, 40, 4), "PNG"),
    saved(Image.fromarray(SAMPLES_16), "PNG"),
    saved(noise(40, 40), "TIFF", compression="tiff_lzw"),
    saved(noise(40, 40), "TIFF", compression="jpeg"),
    saved(Image.fromarray(noise(40, 40, 4), "CMYK"), "JPEG"),
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.sampled_from(SOUND_FILES),
    kept=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6),
)
def test_whatever_happens_to_a_file_the_answer_is_pixels_or_one_of_two_errors_in_one_line(data, kept, changes):
    damaged = bytearray(data[: int(len(data) * kept)] if kept < 0.5 else data)
    for place, value in changes:
        # Squared: headers, where damage is most varied, are at the front.
        start = int(place**2 * len(damaged))
        damaged[start : start + len(value)] = value
    message = None
    try:
        pixels = decoded(bytes(damaged), max_pixels=1_000_000)
    except (DecodeError, TooLargeError) as error:
        message = str(error)
    if message is None:
        assert 0 < pixels.shape[0] * pixels.shape[1] <= 1_000_000
    else:
        assert 0 < len(message) < 400
        assert message.isprintable()
        assert " at 0x" not in message
