"""What an export notes in its destination: what it is an export of, and which parts of it are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from sam_pipeline.errors import OutputError
from sam_pipeline.exports.format import Piece
from sam_pipeline.exports.places.destination import MARKER, OWN_FOLDER, Destination
from sam_pipeline.exports.places.place import NAMES_FOLDER
from sam_pipeline.exports.report import Report
from sam_pipeline.storage.objects.filesystem import join_uri
from sam_pipeline.storage.tables.delta import REQUESTS_AT_ONCE

_PARTS = f"{OWN_FOLDER}/parts"

# Desktops leave files of their own in any folder.
_PART_NAME = re.compile(rf"{re.escape(_PARTS)}/(\d{{7,}})\.json")
_LIST_NAME = re.compile(rf"{re.escape(NAMES_FOLDER)}/[a-z]+(-\d+)*\.json")


@dataclass(frozen=True)
class Identity:
    """What must be the same for an export to go on."""

    run: str
    """The folder of the run."""
    table_id: str
    """Id of the table of results."""
    settings: Mapping[str, Any]
    """Settings of the export and the selection, by name, as JSON gives them back."""


@dataclass(frozen=True)
class Marker:
    """The note that makes a folder an export of this program."""

    identity: Identity
    table_version: int
    """The version of the results that is exported."""
    part_images: int
    """Planned images in a part."""
    finished: bool = False
    kept: tuple[str, ...] = ()
    """Files of others that were there before it began, or went on."""

    def finish(self, destination: Destination) -> None:
        """Note that the export is complete."""
        write_marker(destination, replace(self, finished=True))


@dataclass(frozen=True)
class PartRecord:
    """A part that is written."""

    report: Report
    pieces: tuple[Piece, ...]


def read_marker(destination: Destination) -> Marker | None:
    """The note of an export; None where there is none.

    Raises:
        OutputError: it is damaged.
    """
    content = destination.read(MARKER)
    if content is None:
        return None
    with _note(destination, MARKER):
        stored = json.loads(content)
        identity = Identity(**stored.pop("identity"))
        return Marker(identity, **(stored | {"kept": tuple(stored["kept"])}))


def write_marker(destination: Destination, marker: Marker) -> None:
    """Write the note."""
    destination.put(MARKER, json.dumps(asdict(marker), indent=1).encode())


def read_parts(destination: Destination) -> dict[int, PartRecord]:
    """The parts that are written, by number.

    Raises:
        OutputError: a note is damaged.
    """
    found = {}
    for name in destination.names(_PARTS):
        match = _PART_NAME.fullmatch(name)
        content = destination.read(name) if match else None
        if match and content is not None:
            with _note(destination, name):
                stored = json.loads(content)
                pieces = tuple(Piece(**piece) for piece in stored["pieces"])
                found[int(match[1])] = PartRecord(Report.from_json(stored["report"]), pieces)
    return found


def write_part(destination: Destination, number: int, record: PartRecord) -> None:
    """Note that a part is written."""
    stored = {"report": record.report.to_json(), "pieces": [asdict(piece) for piece in record.pieces]}
    destination.put(f"{_PARTS}/{number:07}.json", json.dumps(stored).encode())


def written_names(destination: Destination) -> set[str]:
    """Names of all files that an export has written, or was about to write.

    Raises:
        OutputError: a note is damaged.
    """
    names: set[str] = set()
    lists = [name for name in destination.names(NAMES_FOLDER) if _LIST_NAME.fullmatch(name)]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:  # there may be tens of thousands
        for each, content in zip(lists, threads.map(destination.read, lists), strict=True):
            if content is not None:
                with _note(destination, each):
                    names.update(json.loads(content))
    return names


@contextmanager
def _note(destination: Destination, name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{join_uri(destination.uri, name)} is no note of an export") from error
