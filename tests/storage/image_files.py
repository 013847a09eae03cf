"""Bytes of image files, sound and odd, made on the spot."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def noise(height=12, width=16, channels=3, seed=0):
    """Random uint8 samples: (H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image, kind, **options):
    """An image, or an array of its samples, as the bytes of a file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bit_depth, colour_type, rows=b"", extra=b"", interlace=0):
    """A PNG from its header, its raw scan lines (each with its filter byte) and other chunks before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, interlace))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + png_chunk(b"IEND", b"")


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    width,
    height,
    blocks,
    *,
    byte_order,
    bits,
    channels=1,
    photometric=1,
    compression=1,
    planar=1,
    tile=None,
    extra_sample=None,
    sample_format=1,
    tags=None,
):
    """A TIFF from its raw strips, planes or square tiles.

    Args:
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette.
        compression: 1 none, 8 deflate.
        extra_sample: of the last channel; 1 premultiplied alpha, 2 alpha.
        sample_format: 1 unsigned, 2 signed, 3 floating point.
        tags: more of them, or others, as numbers to lists of values.
    """
    order = {"little": "<", "big": ">"}[byte_order]
    blocks = [zlib.compress(block) if compression == 8 else block for block in blocks]
    offsets, sizes = (324, 325) if tile else (273, 279)
    entries = {256: [width], 257: [height], 258: [bits] * channels, 259: [compression], 262: [photometric]}
    entries |= {277: [channels], 284: [planar], 339: [sample_format] * channels}
    entries |= {322: [tile], 323: [tile]} if tile else {278: [height]}
    entries |= {338: [extra_sample]} if extra_sample else {}
    entries |= {sizes: [len(block) for block in blocks], offsets: [0] * len(blocks), **(tags or {})}
    position = 8 + 2 + 12 * len(entries) + 4 + sum(4 * len(values) for values in entries.values() if len(values) > 1)
    if not (tags and offsets in tags):
        entries[offsets] = [position + sum(entries[sizes][:i]) for i in range(len(blocks))]
    directory, values_at, long_values = b"", 8 + 2 + 12 * len(entries) + 4, b""
    for tag, values in sorted(entries.items()):
        value = values[0] if len(values) == 1 else values_at + len(long_values)
        directory += struct.pack(order + "HHII", tag, 4, len(values), value)  # 4: LONG
        long_values += struct.pack(f"{order}{len(values)}I", *values) if len(values) > 1 else b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + directory + bytes(4) + long_values + b"".join(blocks)


def bmp(bits, data, *, compression=0, palette=(), masks=b"", width=None, height=None):
    """A BMP from its raw data, of SHAPE by default; compression is 0 none, 1 RLE8, 2 RLE4, 3 bit fields."""
    colours = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette)
    header_size = 56 if len(masks) == 16 else 40
    start = 14 + header_size + len(colours) + (0 if header_size == 56 else len(masks))
    header = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    size = WIDTH if width is None else width, HEIGHT if height is None else height
    header += struct.pack("<IiiHHIIiiII", header_size, *size, 1, bits, compression, len(data), 0, 0, len(palette), 0)
    return header + masks + colours + data


class Variant(NamedTuple):
    """A sound file, the (H, W, 3) uint8 pixels to read from it, and how far a lossy format may be from them."""

    name: str
    data: bytes
    pixels: np.ndarray
    tolerance: int = 0


def variants():
    """Every mode, depth and compression of the allowed formats; images are 20×28 or 32×64 pixels."""
    for family in (_jpegs, _pngs, _webps, _pillow_tiffs, _tiffs, _bmps, _gifs):
        yield from family()


SHAPE = HEIGHT, WIDTH = 20, 28
TRANSPARENT = np.array([255, 128, 0, 51], np.uint8)


def samples(channels=1, bits=8, seed=0):
    """Random integers below 2**bits: (20, 28, channels) uint16."""
    values = np.random.default_rng(seed).integers(0, 1 << bits, (*SHAPE, channels), dtype=np.uint16)
    values.flat[:2] = 0, (1 << bits) - 1
    return values


def rgb_of(values, bits=8):
    """Samples of grey or RGB as RGB in 8 bits, rounded."""
    largest = (1 << bits) - 1
    scaled = ((values.astype(int) * 255 + largest // 2) // largest).astype(np.uint8)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def over_white(rgb, alpha):
    """Colours (H, W, 3) composed over white by alpha (H, W), both uint8."""
    share = alpha[..., None] / 255
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def packed(values, bits, byte_order=">"):
    """Rows of samples as bytes, each row from a new byte on; (H, W, C) to a list of H."""
    if bits == 16:
        return [row.astype(byte_order + "u2").tobytes() for row in values]
    planes = (values[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint16)) & 1
    return [np.packbits(row.astype(np.uint8).ravel()).tobytes() for row in planes]


def smooth(channels=3, height=32, width=64):
    """Slow gradients, which lossy formats keep: (H, W, C) uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 2 * x, 200 - 3 * y, 60 + x + y, 30 + 2 * y][:channels], axis=2).astype(np.uint8)


def _jpegs():
    rgb, grey, inks = smooth(), smooth(1), smooth(4)
    black = 255 - inks[..., 3:].astype(int)
    from_inks = np.rint((255 - inks[..., :3].astype(int)) * black / 255).astype(np.uint8)
    modes = {"grey": (grey[..., 0], np.repeat(grey, 3, 2)), "rgb": (rgb, rgb)}
    modes["cmyk"] = Image.fromarray(inks, "CMYK"), from_inks
    kinds = {"baseline": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 1}}
    kinds |= {"optimized": {"optimize": True}, "4:4:4": {"subsampling": 0}, "4:2:2": {"subsampling": 1}}
    for mode, (image, pixels) in modes.items():
        for kind, options in kinds.items():
            yield Variant(f"jpeg {mode} {kind}", saved(image, "JPEG", quality=98, **options), pixels, 8)
    more = [Image.fromarray(noise(seed=1))]
    yield Variant("jpeg mpo", saved(rgb, "MPO", quality=98, save_all=True, append_images=more), rgb, 8)
    stored_rgb = saved(rgb, "JPEG", quality=98, keep_rgb=True)
    yield Variant("jpeg stored as rgb", stored_rgb, rgb, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield Variant("jpeg exif", saved(rgb, "JPEG", quality=98, exif=exif), np.rot90(rgb, -1), 8)


def _pngs():
    palette = np.random.default_rng(7).integers(0, 256, (256, 3), dtype=np.uint8)
    for bits in (1, 2, 4, 8, 16):
        grey = samples(1, bits)
        yield from _png(f"grey {bits}", bits, 0, grey, rgb_of(grey, bits))
        if bits < 16:
            value = max(1, (1 << bits) - 2)  # other than 0, which is the same in all depths
            clear = np.where(grey == value, 255, rgb_of(grey, bits)).astype(np.uint8)
            chunk = png_chunk(b"tRNS", struct.pack(">H", value))
            yield from _png(f"grey {bits} with a transparent value", bits, 0, grey, clear, chunk)
            colours = png_chunk(b"PLTE", palette[: 1 << bits].tobytes())
            seen = palette[grey[..., 0]]
            yield from _png(f"palette {bits}", bits, 3, grey, seen, colours)
            alphas = np.resize(TRANSPARENT, 1 << bits)
            chunk = colours + png_chunk(b"tRNS", alphas.tobytes())
            clear = over_white(seen, alphas[grey[..., 0]])
            yield from _png(f"palette {bits} with alpha", bits, 3, grey, clear, chunk, 1)
    for bits in (8, 16):
        # Of more than one channel Pillow keeps the high byte.
        rgba = samples(4, bits)
        rgba[..., 3] = np.resize(TRANSPARENT.astype(np.uint16) << (bits - 8), SHAPE)
        high = (rgba >> (bits - 8)).astype(np.uint8)
        alpha = high[..., 3]
        yield from _png(f"rgb {bits}", bits, 2, rgba[..., :3], high[..., :3])
        yield from _png(f"rgba {bits}", bits, 6, rgba, over_white(high[..., :3], alpha), tolerance=1)
        grey = over_white(np.repeat(high[..., :1], 3, axis=2), alpha)
        yield from _png(f"grey {bits} with alpha", bits, 4, rgba[..., [0, 3]], grey, tolerance=1)
    # The high bytes of another colour: what 8 bits would take for it.
    named = png_chunk(b"tRNS", struct.pack(">3H", *high[3, 3, :3]))
    yield from _png("rgb 16 with a transparent colour, which is ignored", 16, 2, rgba[..., :3], high[..., :3], named)
    frames = [Image.fromarray(noise(seed=seed)) for seed in (0, 1, 2)]
    yield Variant("png animated", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), noise())


def _png(name, bits, colour_type, values, pixels, extra=b"", tolerance=0):
    rows = b"".join(b"\0" + row for row in packed(values, bits))
    yield Variant(f"png {name}", png(WIDTH, HEIGHT, bits, colour_type, rows, extra), pixels, tolerance)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [values[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row for part in parts for row in packed(part, bits))
    data = png(WIDTH, HEIGHT, bits, colour_type, rows, extra, interlace=1)
    yield Variant(f"png {name} interlaced", data, pixels, tolerance)


def _webps():
    rgb, rgba = smooth(), smooth(4)
    clear = over_white(rgb, rgba[..., 3])
    # Lossy WebP keeps half as many chroma samples, in the narrow range of video.
    yield Variant("webp lossy", saved(rgb, "WEBP", quality=95), rgb, 16)
    yield Variant("webp lossy with alpha", saved(rgba, "WEBP", quality=95), clear, 16)
    yield Variant("webp lossless", saved(noise(), "WEBP", lossless=True), noise())
    yield Variant("webp lossless with alpha", saved(rgba, "WEBP", lossless=True, exact=True), clear, 1)
    frames = [Image.fromarray(noise(seed=seed)) for seed in (0, 1)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield Variant("webp animated", data, noise())


def _pillow_tiffs():
    rgb, grey, rgba = noise(*SHAPE), noise(*SHAPE, 1), noise(*SHAPE, 4)
    greys = np.repeat(grey, 3, axis=2)
    clear = over_white(rgba[..., :3], rgba[..., 3])
    with_palette = Image.fromarray(grey[..., 0], "P")
    with_palette.putpalette(rgb.tobytes()[:768])
    bits = grey[..., 0] > 127
    black_white = np.repeat(bits[..., None], 3, axis=2) * np.uint8(255)
    inks = Image.fromarray(rgba, "CMYK")
    deep = samples(1, 16)
    modes = {
        "1": (Image.fromarray(bits), black_white),
        "L": (Image.fromarray(grey[..., 0]), greys),
        "LA": (Image.fromarray(rgba[..., 2:]), over_white(np.repeat(rgba[..., 2:3], 3, axis=2), rgba[..., 3])),
        "P": (with_palette, np.asarray(with_palette.convert("RGB"))),
        "I;16": (Image.fromarray(deep[..., 0]), rgb_of(deep, 16)),
        "I": (Image.fromarray(deep[..., 0].astype(np.int32)), rgb_of(deep, 16)),
        "RGB": (Image.fromarray(rgb), rgb),
        "RGBX": (Image.fromarray(rgba, "RGBX"), rgba[..., :3]),
        "RGBA": (Image.fromarray(rgba), clear),
        "CMYK": (inks, np.asarray(inks.convert("RGB"))),
    }
    for mode, (image, pixels) in modes.items():
        for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"):
            yield Variant(f"tiff {mode} {compression}", saved(image, "TIFF", compression=compression), pixels, 1)
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield Variant(f"tiff {compression}", saved(modes["1"][0], "TIFF", compression=compression), black_white)
    for name, image in (("rgb", smooth()), ("grey", smooth(1)[..., 0])):
        pixels = np.broadcast_to(image.reshape(32, 64, -1), (32, 64, 3))
        yield Variant(f"tiff jpeg {name}", saved(image, "TIFF", compression="jpeg", quality=98), pixels, 8)
    yield Variant("tiff bigtiff", saved(rgb, "TIFF", big_tiff=True), rgb)
    more = [Image.fromarray(noise(seed=1))]
    yield Variant("tiff of several pages", saved(rgb, "TIFF", save_all=True, append_images=more), rgb)
    ycbcr = Image.fromarray(rgb).convert("YCbCr")
    yield Variant("tiff YCbCr", saved(ycbcr, "TIFF"), np.asarray(ycbcr.convert("RGB")), 2)


def _tiffs():
    for order in ("little", "big"):
        code = {"little": "<", "big": ">"}[order]
        for bits in (8, 16):
            rgba = samples(4, bits)
            high = (rgba >> (bits - 8)).astype(np.uint8)
            clear = over_white(high[..., :3], high[..., 3])
            kinds = {"rgb": (rgba[..., :3], high[..., :3], {}), "rgba": (rgba, clear, {"extra_sample": 2})}
            for kind, (values, pixels, options) in kinds.items():
                for compression in (1, 8):
                    name = f"tiff {kind} {bits} {order} {'deflate' if compression == 8 else 'raw'}"
                    blocks = [b"".join(packed(values, bits, code))]
                    file = {"byte_order": order, "bits": bits, "channels": values.shape[2], "photometric": 2}
                    file |= {"compression": compression, **options}
                    yield Variant(name, tiff(WIDTH, HEIGHT, blocks, **file), pixels, 1)
                    planes = [b"".join(packed(values[..., [i]], bits, code)) for i in range(values.shape[2])]
                    yield Variant(f"{name} planar", tiff(WIDTH, HEIGHT, planes, planar=2, **file), pixels, 1)
                    tiles = [b"".join(packed(tile, bits, code)) for tile in _tiles(values)]
                    yield Variant(f"{name} tiled", tiff(WIDTH, HEIGHT, tiles, tile=16, **file), pixels, 1)
        for bits in (1, 2, 4, 8, 12, 16):
            grey = samples(1, bits)
            blocks = [b"".join(packed(grey, bits, code))]
            file = {"byte_order": order, "bits": bits}
            if bits != 12 or order == "little":  # Pillow knows no other 12 bits
                yield Variant(f"tiff grey {bits} {order}", tiff(WIDTH, HEIGHT, blocks, **file), rgb_of(grey, bits))
            if bits < 12 or (bits, order) == (16, "little"):
                data = tiff(WIDTH, HEIGHT, blocks, photometric=0, **file)
                yield Variant(f"tiff grey {bits} {order}, white is 0", data, 255 - rgb_of(grey, bits))
    grey_alpha = samples(2)
    grey_alpha[..., 0] = grey_alpha[..., 0] * grey_alpha[..., 1] // 255
    pixels = np.repeat(grey_alpha[..., :1] + 255 - grey_alpha[..., 1:], 3, axis=2)
    blocks = [b"".join(packed(grey_alpha, 8))]
    data = tiff(WIDTH, HEIGHT, blocks, byte_order="little", bits=8, channels=2, extra_sample=1)
    yield Variant("tiff grey with premultiplied alpha", data, pixels, 2)


def _tiles(values, size=16):
    padded = np.pad(values, ((0, -HEIGHT % size), (0, -WIDTH % size), (0, 0)))
    for top in range(0, HEIGHT, size):
        for left in range(0, WIDTH, size):
            yield padded[top : top + size, left : left + size]


def _bmps():
    palette = np.random.default_rng(7).integers(0, 256, (256, 3), dtype=np.uint8)
    for bits in (1, 4, 8):
        values = samples(1, bits)
        rows = [row.ljust(-(-len(row) // 4) * 4, b"\0") for row in packed(values, bits)]
        colours, pixels = palette[: 1 << bits], palette[values[..., 0]]
        yield Variant(f"bmp {bits}", bmp(bits, b"".join(rows[::-1]), palette=colours), pixels)
        yield Variant(f"bmp {bits} top down", bmp(bits, b"".join(rows), palette=colours, height=-HEIGHT), pixels)
    for bits in (4, 8):
        lengths, values = [3, 5, 6, 14], samples(1, bits, seed=1)[:, :4, 0]
        runs = b"".join(
            b"".join(bytes([n, v * 17 if bits == 4 else v]) for n, v in zip(lengths, row, strict=True)) + b"\0\0"
            for row in values[::-1]
        )
        pixels = palette[np.repeat(values, lengths, axis=1)]
        data = bmp(bits, runs + b"\0\1", compression={8: 1, 4: 2}[bits], palette=palette[: 1 << bits])
        yield Variant(f"bmp rle {bits}", data, pixels)
    rgba = noise(*SHAPE, 4)
    rgb = rgba[..., :3]
    yield Variant("bmp 24", saved(rgb, "BMP"), rgb)
    stored = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    yield Variant("bmp 32", bmp(32, stored), rgb)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    clear = over_white(rgb, rgba[..., 3])
    yield Variant("bmp 32 with alpha", bmp(32, stored, compression=3, masks=masks), clear, 1)
    for name, widths in (("555", (5, 5, 5)), ("565", (5, 6, 5))):
        parts = np.stack([samples(1, width, seed)[..., 0] for seed, width in enumerate(widths)], axis=2)
        shifts = np.array([widths[1] + widths[2], widths[2], 0], np.uint16)
        rows = (parts << shifts).sum(axis=2).astype("<u2")[::-1].tobytes()
        pixels = np.concatenate([rgb_of(parts[..., [i]], widths[i])[..., :1] for i in range(3)], axis=2)
        masks = struct.pack("<3I", *(((1 << width) - 1) << int(s) for width, s in zip(widths, shifts, strict=True)))
        yield Variant(f"bmp 16 as {name}", bmp(16, rows, compression=3, masks=masks), pixels, 1)


def _gifs():
    values = samples(1, 8)[..., 0].astype(np.uint8)
    image = Image.fromarray(values, "P")
    colours = np.random.default_rng(7).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(colours.tobytes())
    pixels = colours[values]
    for interlace in (0, 1):
        data = saved(image, "GIF", interlace=interlace, optimize=False)
        yield Variant(f"gif {'interlaced' if interlace else 'plain'}", data, pixels)
    clear = np.where(values[..., None] == values[3, 3], 255, pixels).astype(np.uint8)
    yield Variant("gif transparent", saved(image, "GIF", transparency=int(values[3, 3]), optimize=False), clear)
    yield Variant("gif grey", saved(values, "GIF"), np.repeat(values[..., None], 3, axis=2))
    frames = [Image.fromarray(noise(seed=seed)).quantize(16) for seed in (0, 1, 2)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield Variant("gif animated", data, np.asarray(frames[0].convert("RGB")))
