"""Prompts from YOLO's labels: a text file an image, a line a box, all in shares of the image's size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pyarrow as pa

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import InputError
from sam_pipeline.storage.fetching import fetch, find_probe
from sam_pipeline.storage.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.prompts.prompt_values import Row, bad_row, whole_number
from sam_pipeline.storage.prompts.row_tables import row_tables
from sam_pipeline.storage.sources.name_patterns import Below
from sam_pipeline.storage.sources.source_image import SourceImage

LABEL_SUFFIX = ".txt"

_NAMES_OF_CLASSES = "classes.txt"
# Of some hundred bytes each, asked for at once. A batch ends earlier where files are large.
_FILES_AT_ONCE = 256
_BYTES_AT_ONCE = 64 << 20


def yolo_prompts(files: Sequence[SourceImage], uri: str, options: StorageOptions) -> Iterator[pa.Table]:
    """Read labels: `class cx cy w h [confidence]`. See prompt_files.read_prompts.

    The image is called as the file, below the folder and without suffix. The prompt_id is the line, from 0.

    Args:
        files: as listed. classes.txt is passed over.
        uri: a folder, a glob or a file: what was listed.
        options: of the storage.
    """
    return row_tables(_rows(files, uri, options))


def _rows(files: Sequence[SourceImage], uri: str, options: StorageOptions) -> Iterator[Row]:
    filesystem, root = open_filesystem(uri, options)
    for file in files:
        if file.error is not None:  # its name is no text, so it cannot be asked for
            yield bad_row(_row(None, 0), file.error)
    named = [file for file in files if file.error is None]
    probe_uri = find_probe(named, options)
    for batch in _batches(named):
        for file, content in zip(batch, fetch(batch, options, probe_uri), strict=True):
            if isinstance(content, Exception):
                raise InputError(f"cannot read {file.uri}: {one_line(content)}") from content
            yield from _label_rows(_key(filesystem._strip_protocol(file.uri), root), content)


def _batches(files: Sequence[SourceImage]) -> Iterator[list[SourceImage]]:
    batch: list[SourceImage] = []
    num_bytes = 0
    for file in files:
        if file.uri.rpartition("/")[2].lower() == _NAMES_OF_CLASSES:
            continue
        if batch and (len(batch) == _FILES_AT_ONCE or num_bytes + (file.size_bytes or 0) > _BYTES_AT_ONCE):
            yield batch
            batch, num_bytes = [], 0
        batch.append(file)
        num_bytes += file.size_bytes or 0
    if batch:
        yield batch


def _key(path: str, root: str) -> str:
    """What an image is called by the path of its labels; root: the path that was listed."""
    if path == root:
        folder = path.rpartition("/")[0]
    else:
        folder = root.rstrip("/") if path.startswith(root.rstrip("/") + "/") else Below(root, is_glob=True).root
    return path.removeprefix(f"{folder}/")[: -len(LABEL_SUFFIX)]


def _label_rows(key: str, content: bytes) -> Iterator[Row]:
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines()):
        if line.strip():
            yield _label_row(key, number, line.split())


def _label_row(key: str, number: int, words: Sequence[str]) -> Row:
    category_id = whole_number(_number(words[0]))
    numbers = [_number(word) for word in words[1:]]
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    score = numbers[4] if len(numbers) == len(finite) == 5 else None
    row = _row(key, number) | {"category_id": category_id, "score": score}
    if category_id is None or len(numbers) not in (4, 5) or len(finite) != len(numbers):
        return bad_row(row, "the line must be class cx cy w h [confidence]")
    cx, cy, w, h = finite[:4]
    return row | {"box_xyxy": [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]}


def _row(key: str | None, number: int) -> Row:
    return {"key": key, "is_image_id": False, "prompt_id": number, "is_relative": True}


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
