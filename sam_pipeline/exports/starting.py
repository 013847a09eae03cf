"""Beginning an export, or going on with one: is the destination free, or does it hold what was begun?"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from sam_pipeline.errors import ConfigError, OutputError
from sam_pipeline.exports.places.destination import OWN_FOLDER, Destination, own_names
from sam_pipeline.exports.progress import Identity, Marker, read_marker, write_marker, written_names
from sam_pipeline.exports.settings import ExportSettings
from sam_pipeline.results.categories import Categories
from sam_pipeline.results.results import Results
from sam_pipeline.results.review import Review
from sam_pipeline.storage.objects.filesystem import join_uri
from sam_pipeline.storage.tables.delta import table_id


def identity_of(results: Results, settings: ExportSettings, categories: Categories, review: Review | None) -> Identity:
    """What an export is of: also what was in the files that its settings name."""
    stored = {name: value for name, value in settings.by_name().items() if name != "overwrite"}
    plain: dict[str, Any] = json.loads(json.dumps(stored | results.selection.effective()))
    contents = {
        "content of categories": _sha256([*categories.names.items()], sorted(categories.supercategories.items())),
        "content of reviewed": review and _sha256(*review.contents()),
    }
    return Identity(results.output, table_id(results.table), plain | contents)


def begin(
    results: Results, destination: Destination, identity: Identity, part_images: int, *, overwrite: bool
) -> Marker:
    """Claim a destination, or find in it what the same export has begun.

    Args:
        results: the run, with the selection.
        destination: where.
        identity: of the export.
        part_images: planned images in a part of a new export.
        overwrite: whether it replaces an earlier one.

    Raises:
        OutputError: it is not empty, and holds no export that can be replaced or goes on.
        ConfigError: it holds another export, which is not finished.
    """
    marker = read_marker(destination)
    kept: tuple[str, ...] = ()
    if marker is not None and not overwrite:
        if marker.finished:
            raise OutputError(f"{destination.uri} holds a finished export; --overwrite replaces it")
        _check_same(destination.uri, marker.identity, identity)
        return replace(marker, kept=_files_of_others(destination))
    if marker is not None:
        kept = _clear(destination)
    elif (name := destination.first_name()) is not None:
        raise OutputError(f"{destination.uri} is not empty: it holds {name!r}, which no export wrote")
    else:
        kept = tuple(destination.names())  # hidden files: images may have such names too
    marker = Marker(identity, results.table.version(), part_images, kept=kept)
    write_marker(destination, marker)
    return marker


def _check_same(uri: str, begun: Identity, wanted: Identity) -> None:
    if (begun.run, begun.table_id) != (wanted.run, wanted.table_id):
        raise ConfigError(f"{uri} holds the unfinished export of another run, {begun.run}; --overwrite replaces it")
    names = sorted({*begun.settings, *wanted.settings})
    values = [(name, begun.settings.get(name), wanted.settings.get(name)) for name in names]
    if different := [f"{name}: {old!r} there, {new!r} now" for name, old, new in values if old != new]:
        raise ConfigError(
            f"{uri} holds an unfinished export with other settings ({'; '.join(different)}); "
            "go on with the same, or replace it with --overwrite"
        )


def _files_of_others(destination: Destination) -> tuple[str, ...]:
    """Files that an unfinished export has not written, nor was about to: also those that came since it was cut off."""
    written = written_names(destination)
    return tuple(name for name in destination.names() if name not in written and not name.startswith(f"{OWN_FOLDER}/"))


def _sha256(*values: object) -> str:
    """Of values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _clear(destination: Destination) -> tuple[str, ...]:
    """Delete what an export has written; returns what is left.

    Raises:
        OutputError: notes are left, by which the new export would take parts of the earlier one for its own.
    """
    written = written_names(destination)
    destination.remove([name for name in destination.names() if name in written])
    destination.remove_own()
    left = destination.names()
    if notes := own_names(left):
        place = join_uri(destination.uri, notes[0])
        raise OutputError(f"{place} could not be deleted; delete it, or use another place")
    return tuple(left)
