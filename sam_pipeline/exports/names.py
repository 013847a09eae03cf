"""Names of images in an export: relative to the folder that holds them all, safe to join to another, and distinct."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.exports.places.destination import OWN_FOLDER, folders_of
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection
from sam_pipeline.storage.tables.plan import existing_plan

_MEMBER = re.compile(r"(\.(?:tar|tgz|tar\.\w+|zip|parquet|pq))#", re.IGNORECASE)
# What no file name should hold, and what could be taken for one that was encoded, here or by the format yolo.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|%(?=[0189][0-9A-F]|25|2E|2F|5C|7F|69mages/)")
# Bytes of a part of a path, on most disks. Shorter names are not looked at: a character has four bytes at most.
_MOST_BYTES = 255
_SHORT = _MOST_BYTES // 4
_SUFFIX = re.compile(r"(?<=[^/])\.[^./]{1,5}$")
# Ends the URI of a bad list entry, or of an archive that cannot be read.
_NO_IMAGE = r"#(row-\d+)?$"


@dataclass(frozen=True)
class Names:
    """How the images of a run are called in an export."""

    root: str
    """The beginning that the URIs of all images share, with a slash at its end; names are the rest. URIs of bad list
    entries may begin otherwise."""
    stems: Mapping[int, str] = field(default_factory=dict)
    """By image_id, the stems of images whose names differ in their suffix alone, or are those of folders."""
    train_below: int | None = None
    """Images whose place is below this are of train; None: there is no train."""
    seed: int = 0

    def file_names(self, uris: Sequence[str]) -> list[str]:
        """The name of each image: a relative path without `..`, with what is unsafe percent-encoded."""
        start = len(self.root)
        return [_safe_name(uri[start:]) for uri in uris]

    def stem(self, image_id: int, file_name: str) -> str:
        """The name without its suffix, short enough for another one; no two images have the same."""
        stem = self.stems.get(image_id) or stem_of(file_name)
        folder, slash, name = stem.rpartition("/")
        return f"{folder}{slash}{_shortened(name, _MOST_BYTES - 15)}"

    def is_train(self, file_name: str) -> bool:
        """Whether an image belongs to train."""
        assert self.train_below is not None
        return _place(file_name, self.seed) < self.train_below


def stem_of(file_name: str) -> str:
    """A name without the suffix of its last part."""
    return _SUFFIX.sub("", file_name)


def read_names(results: Results, *, split: float | None = None, seed: int = 0, suffixes: Sequence[str] = ()) -> Names:
    """Look at the URIs of a run's results, a small column.

    What an image is called depends on all images of the run, whatever the selection; which of them are of train depends
    on those that the selection shows.

    Args:
        results: of the run, with the selection.
        split: share of the images that is of train.
        seed: of this division.
        suffixes: what follows a stem in the names of files; none if stems are not asked for.
    """
    everything = results.select(MaskSelection())
    names = Names(_root(everything))
    stems = _distinct_stems(everything, names, suffixes) if suffixes else {}
    train_below = None
    if split is not None:
        places = [np.empty(0, np.uint64)]
        for rows in results.tables(["uri"], pc.field("status") == "ok"):
            found = names.file_names(rows["uri"].to_pylist())
            places.append(np.array([_place(name, seed) for name in found], np.uint64))
        train_below = _quantile(np.concatenate(places), split)
    return Names(names.root, stems, train_below, seed)


def _root(results: Results) -> str:
    """The folder of all images: the input, if it is one, or else what their URIs have in common.

    What names no image counts only if there is nothing else: a bad entry of a list is named after the list, which lies
    elsewhere, and a damaged archive by itself.
    """
    of_images: list[str] = []
    of_all: list[str] = []
    for rows in results.tables(["uri", "status"]):
        is_entry = pc.and_(pc.not_equal(rows["status"], "ok"), pc.match_substring_regex(rows["uri"], _NO_IMAGE))
        of_images = _ends(of_images, rows["uri"].filter(pc.invert(is_entry)))
        of_all = _ends(of_all, rows["uri"])
    ends = of_images or of_all
    if not ends:
        return ""
    planned = existing_plan(results.output, results.storage_options).input.rstrip("/") + "/"
    for folder in (planned, f"file://{planned}"):
        # What lies between two strings that begin with the folder begins with it too.
        if all(end.startswith(folder) and len(end) > len(folder) for end in ends):
            return folder
    first, last = (_MEMBER.sub(r"\1/", end) for end in ends)
    length = next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return ends[0][: first[:length].rfind("/") + 1]


def _ends(ends: list[str], uris: pa.ChunkedArray) -> list[str]:
    """The first and the last of some URIs, and of those before; nothing if there are none."""
    if not len(uris):
        return ends
    extremes = pc.min_max(uris)
    return [min([*ends[:1], extremes["min"].as_py()]), max([*ends[1:], extremes["max"].as_py()])]


def _safe_name(rest: str) -> str:
    """What follows the root as a relative path; different ones stay different."""
    rest = _MEMBER.sub(r"\1/", rest, count=1).replace("://", "/")
    if _UNSAFE.search(rest):
        rest = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", rest)
    parts = rest.split("/")
    if parts[0].lower() == OWN_FOLDER:
        parts[0] = f"%2E{parts[0][1:]}"
    if {"", ".", ".."} & set(parts):
        parts = ["%2E" * len(part) if part in (".", "..") else part or "%2F" for part in parts]
    if len(rest) > _SHORT:
        parts = [_shortened(part, _MOST_BYTES) for part in parts]
    return "/".join(parts)


def _shortened(part: str, most_bytes: int) -> str:
    """A name that a disk can hold: S3 takes longer ones. It ends as before, so that it has the same suffix."""
    content = part.encode()
    if len(content) <= most_bytes:
        return part
    return f"{content[:150].decode(errors='ignore')}~{_hash(part):016x}~{content[-30:].decode(errors='ignore')}"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _place(file_name: str, seed: int) -> int:
    """Where an image stands in an order that the seed decides."""
    return _hash(f"{seed}/{file_name}")


def _quantile(places: npt.NDArray[np.uint64], share: float) -> int:
    """The place below which a share of all places is, as exactly as their number allows."""
    ordered = np.sort(places)
    count = round(share * len(ordered))
    return int(ordered[count]) if count < len(ordered) else 2**64


def _distinct_stems(results: Results, names: Names, suffixes: Sequence[str]) -> dict[int, str]:
    """Other stems for images that would share one, or that would have a file where the folder of other images is.

    Such a stem is the whole name, with the id behind it if that is taken too.
    """
    hashes, of_folders = [np.empty(0, np.uint64)], set[int]()
    for rows in _below(names.root, results.tables(["uri"])):
        found = names.file_names(rows["uri"].to_pylist())
        hashes.append(np.array([_hash(stem_of(name)) for name in found], np.uint64))
        parents = {name.rpartition("/")[0] for name in found}
        for folder in {folder for parent in parents for folder in folders_of(f"{parent}/")}:
            of_folders.update(_hash(folder.removesuffix(suffix)) for suffix in suffixes if folder.endswith(suffix))
    distinct, counts = np.unique(np.concatenate(hashes), return_counts=True)
    is_folder = np.isin(distinct, np.fromiter(of_folders, np.uint64))
    shared = set(distinct[(counts > 1) | is_folder].tolist())
    if not shared:
        return {}
    taken, stems = {*distinct.tolist(), *of_folders}, {}
    for rows in _below(names.root, results.tables(["image_id", "uri"])):
        found = names.file_names(rows["uri"].to_pylist())
        for image_id, name in zip(rows["image_id"].to_pylist(), found, strict=True):
            if _hash(stem_of(name)) in shared:
                stem = name
                while _hash(stem) in taken:
                    stem = f"{stem}~{image_id}"
                taken.add(_hash(stem))
                stems[image_id] = stem
    return stems


def _below(root: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows whose URI begins with the root: only these have a name."""
    for rows in tables:
        yield rows.filter(pc.starts_with(rows["uri"], root))
