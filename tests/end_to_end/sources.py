"""The same photographs as every kind of input: files, lists that name them, and containers that hold them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.end_to_end.pictures import photo

NUM_IMAGES = 3

NAMES = tuple(f"{index:02}.png" for index in range(NUM_IMAGES))
"""Of the photographs as files."""


@dataclass(frozen=True)
class Source:
    """A kind of input, and what is to come of it."""

    make: Callable[[Path, str], None]
    """(folder, its URI after it was perhaps uploaded): fill the folder."""
    input: str
    """Below the folder; "" is the folder itself."""
    uris: Mapping[str, int]
    """Names of the images in the results, below the folder's URI and in the order of their ids, and which photographs
    they are."""
    flags: tuple[str, ...] = ()
    """`{where}` in them is the folder's URI."""
    extra: tuple[object, ...] = field(default=(None,) * NUM_IMAGES)
    """What is kept with each image."""


def png_files() -> dict[str, bytes]:
    """The bytes of the photographs, by their names."""
    files = {}
    for index, name in enumerate(NAMES):
        buffer = io.BytesIO()
        Image.fromarray(photo(index)).save(buffer, "PNG")
        files[name] = buffer.getvalue()
    return files


def _save(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in png_files().items():
        (folder / name).write_bytes(data)


def _files(folder: Path, where: str) -> None:
    _save(folder / "more" / "photos")
    (folder / "notes.txt").write_text("no image, and passed over")


def _glob(folder: Path, where: str) -> None:
    _save(folder)
    Image.fromarray(photo(NUM_IMAGES)).save(folder / "99.jpg")  # an image, but the pattern is not for it


def _single(folder: Path, where: str) -> None:
    _save(folder)


def _csv(folder: Path, where: str) -> None:
    """Names relative to the list, in no order, beside a column to keep and one to pass over."""
    _save(folder)
    rows = [f"{name},photo,label {index}" for index, name in enumerate(NAMES)]
    (folder / "list.csv").write_text("\n".join(["path,kind,label", *reversed(rows)]) + "\n")


def _json_lines(folder: Path, where: str) -> None:
    """Whole URIs; one comes twice, which is planned once."""
    _save(folder)
    lines = [json.dumps({"uri": f"{where}/{name}", "width": 128}) for name in (*NAMES, NAMES[0])]
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n")


def _parquet_list(folder: Path, where: str) -> None:
    """Names relative to a folder that is given by a flag."""
    _save(folder / "photos")
    pq.write_table(pa.table({"url": list(NAMES), "width": [128] * NUM_IMAGES}), folder / "list.parquet")


def _hugging_face(folder: Path, where: str) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"image": {"bytes": data, "path": name}, "label": index}
        for index, (name, data) in enumerate(png_files().items())
    ]
    schema = pa.schema([("image", image), ("label", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "train.parquet", row_group_size=2)


def _tars(folder: Path, where: str) -> None:
    """WebDataset: samples of a picture and its JSON, one in a plain archive, two in a compressed one."""
    first, *others = [
        (name, data, json.dumps({"caption": f"photo {index}"}).encode())
        for index, (name, data) in enumerate(png_files().items())
    ]
    for file, mode, samples in (("0.tar", "w", [first]), ("1.tar.gz", "w:gz", reversed(others))):
        with tarfile.open(folder / file, mode) as archive:
            for name, data, caption in samples:
                _add(archive, name, data)
                _add(archive, name.replace(".png", ".json"), caption)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _zip(folder: Path, where: str) -> None:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for index, (name, data) in enumerate(png_files().items()):
            archive.writestr(f"photos/{name}", data, zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED)
        archive.writestr("README.txt", "no image, and passed over")


def _coco(folder: Path, where: str) -> None:
    _save(folder)
    images = [{"id": 70 + index, "file_name": name, "width": 128} for index, name in enumerate(NAMES)]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))


def _named(pattern: str, names: tuple[str, ...] = NAMES) -> dict[str, int]:
    return {pattern.format(name): index for index, name in enumerate(names)}


SOURCES = {
    "prefix": Source(_files, "", _named("more/photos/{}")),
    "glob": Source(_glob, "*.png", _named("{}")),
    "single file": Source(_single, NAMES[1], {NAMES[1]: 1}, extra=(None,)),
    "CSV": Source(
        _csv,
        "list.csv",
        _named("{}"),
        flags=("--input-column", "path", "--keep", "label"),
        extra=tuple({"label": f"label {index}"} for index in range(NUM_IMAGES)),
    ),
    "JSON Lines": Source(_json_lines, "list.jsonl", _named("{}")),
    "Parquet of URIs": Source(
        _parquet_list, "list.parquet", _named("photos/{}"), flags=("--image-root", "{where}/photos")
    ),
    "Parquet of images": Source(
        _hugging_face,
        "train.parquet",
        _named("train.parquet#{}", tuple(f"{row:09}" for row in range(NUM_IMAGES))),
        flags=("--keep", "label"),
        extra=tuple({"label": index} for index in range(NUM_IMAGES)),
    ),
    "tar": Source(
        _tars,
        "",
        {"0.tar#00.png": 0, "1.tar.gz#01.png": 1, "1.tar.gz#02.png": 2},
        flags=("--input-format", "webdataset", "--keep", "json"),
        extra=tuple({"json": {"caption": f"photo {index}"}} for index in range(NUM_IMAGES)),
    ),
    "zip": Source(_zip, "photos.zip", _named("photos.zip#photos/{}")),
    "COCO": Source(
        _coco,
        "instances.json",
        _named("{}"),
        extra=tuple({"coco_image_id": 70 + index} for index in range(NUM_IMAGES)),
    ),
}
