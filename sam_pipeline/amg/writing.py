"""The files that the official script writes, from records of the generator in output mode `coco_rle`.

A folder of masks or a JSON file is there whole or not at all: it is written beside its place, and then moved there.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sam_pipeline.errors import OutputError
from sam_pipeline.exports.formats.amg import HEADER, METADATA, mask_png, metadata_csv
from sam_pipeline.masks.runs import rle

_JSON_STARTS = (b'[{"segmentation": {"size": [', b"[]")

Record = Mapping[str, Any]


def check_place(place: Path, *, overwrite: bool) -> None:
    """Refuse a place where something is: any file, or a folder that is not empty.

    Args:
        place: a folder of masks, or a JSON file.
        overwrite: whether earlier results of amg may be replaced.

    Raises:
        OutputError: something is there.
    """
    if not os.path.lexists(place) or (_is_folder(place) and not any(place.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{place} exists already: name another output; --overwrite replaces what amg wrote")
    if _written_files(place) is None:
        raise OutputError(f"{place} holds what amg did not write, so --overwrite leaves it: name another output")


def write_folder(place: Path, records: Sequence[Record], *, overwrite: bool) -> None:
    """Write a folder with 0.png, 1.png, … of the image's size, 255 in the mask and 0 beside it, and metadata.csv.

    Raises:
        OutputError: something is there; with overwrite, something that amg did not write.
        OSError: it cannot be written.
    """
    with _moved_to(place, lambda path: path.mkdir(), overwrite=overwrite) as folder:
        for index, record in enumerate(records):
            (folder / f"{index}.png").write_bytes(mask_png(rle.decode(record["segmentation"])))
        (folder / METADATA).write_text(metadata_csv(records), encoding="ascii")


def write_json(place: Path, records: Sequence[Record], *, overwrite: bool) -> None:
    """Write the records as a JSON list.

    Raises:
        OutputError: something is there; with overwrite, something that amg did not write.
        OSError: it cannot be written.
    """
    with _moved_to(place, lambda path: None, overwrite=overwrite) as file:
        file.write_text(json.dumps(list(records)), encoding="ascii")


@contextmanager
def _moved_to(place: Path, make: Callable[[Path], None], *, overwrite: bool) -> Iterator[Path]:
    """A path beside a place, which is moved there in the end; an empty folder or, with overwrite, results make room."""
    scratch = place.parent / f".amg-{uuid.uuid4().hex}"
    make(scratch)
    try:
        yield scratch
        check_place(place, overwrite=overwrite)  # once more: something may have come since the start
        before = scratch.with_name(f"{scratch.name}-before")
        if os.path.lexists(place):
            place.rename(before)
        try:
            scratch.rename(place)
        except OSError:
            if os.path.lexists(before):
                before.rename(place)
            raise
        _remove(before)
    finally:
        _remove(scratch)


def _written_files(place: Path) -> list[Path] | None:
    """The files that amg wrote there; None if there is anything else."""
    if place.is_symlink():
        return None
    if place.is_file():
        with place.open("rb") as file:
            head = file.read(max(map(len, _JSON_STARTS)))
        return [place] if head.startswith(_JSON_STARTS[0]) or head == _JSON_STARTS[1] else None
    try:
        with (place / METADATA).open(encoding="ascii") as file:
            header, num_masks = file.readline().rstrip("\n"), sum(1 for _ in file)
    except (OSError, UnicodeError):
        return None
    files = [place / METADATA, *(place / f"{index}.png" for index in range(num_masks))]
    return files if header == HEADER and {*place.iterdir()} == {*files} else None


def _remove(path: Path) -> None:
    """Remove a file, or a folder of masks, that amg made; whatever else is in the folder stays, and so does it."""
    with suppress(OSError):
        if not _is_folder(path):
            return path.unlink(missing_ok=True)
        (path / METADATA).unlink(missing_ok=True)
        for index in itertools.count():
            if not (path / f"{index}.png").exists():
                break
            (path / f"{index}.png").unlink()
        path.rmdir()
    return None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
