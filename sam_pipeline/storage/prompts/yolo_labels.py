"""Prompts from YOLO's labels: a text file an image, a line a box, all in shares of the image's size."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.storage.inputs.fetching import fetch, find_probe
from sam_pipeline.storage.inputs.file_numbers import as_number, is_real, whole_number
from sam_pipeline.storage.inputs.listing.path_pattern import PathPattern
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions, open_filesystem
from sam_pipeline.storage.prompts.prompt_rows import Row, row_tables
from sam_pipeline.storage.prompts.prompt_values import bad_row

LABEL_SUFFIX = ".txt"

_LAYOUT = "class cx cy w h [confidence] [track]"
_MOST_WORDS = 7
# A box may reach over the edge. One in pixels would be clipped to the whole image, or to nothing.
_MOST_SHARE = 2

_NAMES_OF_CLASSES = "classes.txt"
# Files of some hundred bytes each that are asked for in parallel. A batch ends earlier where files are large.
_FILES_AT_ONCE = 256
_BYTES_AT_ONCE = 64 << 20


def yolo_prompts(files: Sequence[SourceObject], uri: str, storage_options: StorageOptions) -> Iterator[pa.Table]:
    """Read labels: `class cx cy w h [confidence] [track]`. See prompt_files.read_prompts.

    The key is the path of the file below the folder, without suffix. The prompt_id is the line, from 0.

    Programs write a confidence, a track's id, both or none. A fifth number without a fraction, such as 7 or 1, is an
    id, which is not used; it is a confidence where one of the file's fifth numbers is written with a fraction. A
    confidence is in [0, 1]. Lines with more numbers are errors: polygons, turned boxes and poses cannot be told apart.
    So is a line with six numbers where the file has longer ones.

    Args:
        files: as listed. classes.txt is passed over.
        uri: a folder, a glob or a file: what was listed.
        storage_options: of the storage.
    """
    return row_tables(_rows(files, uri, storage_options))


def _rows(files: Sequence[SourceObject], uri: str, storage_options: StorageOptions) -> Iterator[Row]:
    filesystem, root = open_filesystem(uri, storage_options)
    for file in files:
        if file.error is not None:  # its name is no text, so it cannot be asked for
            yield bad_row(_row(None, 0), file.error)
    named = [file for file in files if file.error is None]
    probe_uri = find_probe(named, storage_options)
    for batch in _batches(named):
        for file, content in zip(batch, fetch(batch, storage_options, probe_uri), strict=True):
            if isinstance(content, Exception):
                raise InputError(f"cannot read {file.uri}: {one_line(content)}") from content
            yield from _label_rows(_key(filesystem._strip_protocol(file.uri), root), content)


def _batches(files: Sequence[SourceObject]) -> Iterator[list[SourceObject]]:
    batch: list[SourceObject] = []
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
        folder = root.rstrip("/") if path.startswith(root.rstrip("/") + "/") else PathPattern(root, is_glob=True).root
    return path.removeprefix(f"{folder}/")[: -len(LABEL_SUFFIX)]


def _label_rows(key: str, content: bytes) -> Iterator[Row]:
    # Divided as bytes: in text there are other line ends, such as U+2028.
    lines = [line.decode(errors="replace").split() for line in content.removeprefix(codecs.BOM_UTF8).splitlines()]
    has_polygons = any(len(words) > _MOST_WORDS for words in lines)
    has_confidences = any(len(words) in (_MOST_WORDS - 1, _MOST_WORDS) and _is_confidence(words[5]) for words in lines)
    for number, words in enumerate(lines):
        if words:
            yield _label_row(key, number, words, has_polygons=has_polygons, has_confidences=has_confidences)


def _label_row(key: str, number: int, words: Sequence[str], *, has_polygons: bool, has_confidences: bool) -> Row:
    """A line's prompt; has_…: what other lines of the file show of its layout."""
    row = _row(key, number)
    try:
        row["category_id"] = _class(words[0])
        numbers = [_number(word) for word in words[1:]]
        if len(numbers) < 4:
            raise ValueError(f"the line must be {_LAYOUT}; it has {len(numbers)} numbers behind the class")
        if len(words) > _MOST_WORDS or (len(words) == _MOST_WORDS and has_polygons):
            raise ValueError(f"the line must be {_LAYOUT}; it may be a polygon, a turned box or a pose")
        cx, cy, w, h = numbers[:4]
        if max(map(abs, numbers[:4])) > _MOST_SHARE:
            raise ValueError(f"the line must be {_LAYOUT}; its box is in pixels, not in shares of the image's size")
        # A track's id, without a confidence before it: the programs that write ids write no fraction.
        is_track = len(numbers) == 5 and _is_track(numbers[4]) and not has_confidences
        if len(numbers) == 6 and not _is_track(numbers[5]):
            raise ValueError(f"the line must be {_LAYOUT}; its track is {words[6]!r:.40}")
        if len(numbers) > 4 and not is_track:
            row["score"] = _confidence(numbers[4])
    except ValueError as error:
        return bad_row(row, str(error))
    return row | {"box_xyxy": [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]}


def _is_confidence(word: str) -> bool:
    """Whether a fifth number can be nothing else: 0.9 or 1.0, but not 1."""
    number = as_number(word)
    return is_real(number) and 0 <= number <= 1 and not word.isdecimal()


def _is_track(number: float) -> bool:
    return number.is_integer() and number >= 0


def _class(word: str) -> int:
    category_id = whole_number(as_number(word))
    if category_id is None:
        raise ValueError(f"the line must be {_LAYOUT}; its class is {word!r:.40}")
    return category_id


def _number(word: str) -> float:
    number = as_number(word)
    if not is_real(number) or not math.isfinite(number):
        raise ValueError(f"the line must be {_LAYOUT}; {word!r:.40} is no number")
    return float(number)


def _confidence(number: float) -> float:
    if not 0 <= number <= 1:
        raise ValueError(f"the line must be {_LAYOUT}; its confidence is {number:g}, not in [0, 1]")
    return number


def _row(key: str | None, number: int) -> Row:
    return {"key": key, "is_image_id": False, "prompt_id": number, "is_relative": True}
