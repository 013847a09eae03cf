"""Which planned image a prompt is for, from what its file calls the image."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.storage.inputs.name_forms import one_form

logger = logging.getLogger(__name__)

_NONE, _SEVERAL = -1, -2
_COCO_ID = r'^\{"coco_image_id": (?P<id>"(?:[^"\\]|\\.)*"|-?\d+)'
_SUFFIX = r"\.[^./]+$"
_WHOLE_NUMBER = r"^(?:0|-?[1-9]\d*)$"

_Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Index:
    """Names of images → their ids."""

    names: pa.Array
    """Each once."""
    image_ids: _Ids
    """The image of each name; _SEVERAL where more than one image has it."""

    def find(self, keys: pa.Array) -> _Ids:
        """The image_id of each key; _NONE or _SEVERAL."""
        positions = pc.fill_null(pc.index_in(keys, value_set=self.names), -1).to_numpy()
        return np.where(positions < 0, _NONE, self.image_ids[positions] if len(self.image_ids) else _NONE)


def match_images(keyed: pa.Table, planned: pa.Table) -> _Ids:
    """Find the image that each row of a file of prompts names. What names none, or several, is counted in the log.

    A key is an image's URI; or the end of one, from a slash on (`train/0001.jpg`, `0001.jpg`), with or without the
    suffix. A number also names the file that is called by it with zeros in front, as COCO's are. The first of these
    that names anything counts. A key that names nothing is tried once more in another form: with a space for `%20`,
    slashes for backslashes, letters and their accents as one (see name_forms). If the plan was made from a COCO file,
    keys that are ids are looked for among the ids of that file first, and those that are numbers only there. For all
    other plans the log tells of ids that were taken for numbers in names: these may be of other images.

    Args:
        keyed: (N,) rows of KEYED_PROMPTS; key and is_image_id are used.
        planned: image_id, uri, location and extra of all planned images.

    Returns:
        (N,) int64 image_id of each row; -1 where there is none.
    """
    image_ids, codes, names = _found(keyed, planned)
    _log(image_ids, codes, names)
    if not _has_coco_ids(planned):
        _log_numbers(keyed, planned, image_ids, codes, names)
    image_ids[image_ids == _SEVERAL] = _NONE
    return image_ids


def why_none_match(keyed: pa.Table, planned: pa.Table) -> str:
    """Why no row of a file of prompts names a planned image, with an example and a remedy.

    Args:
        keyed: (N,) rows of KEYED_PROMPTS, of which match_images found none; N > 0.
        planned: as for match_images.
    """
    image_ids, codes, names = _found(keyed, planned)
    named = np.flatnonzero(codes >= 0)
    if not len(named):
        return "none of them names an image"
    several = np.flatnonzero(image_ids == _SEVERAL)
    if len(several):
        name = names[int(codes[several[0]])].as_py()
        return f"each name fits several images, such as {name!r}: give more of their paths"
    name = names[int(codes[named[0]])].as_py()
    image = planned["uri"][0].as_py()
    coco_id = re.match(_COCO_ID, planned["extra"][0].as_py() or "")
    is_image_id = keyed["is_image_id"][int(named[0])].as_py()
    # COCO results may name a file in image_id; no id of a COCO file has a dot or a slash.
    if not is_image_id or (coco_id is None and re.search("[./]", name)):
        return f"they name images such as {name!r}, and the images are such as {image!r}"
    if coco_id is not None:
        return f"they have ids such as {name!r}, and the images of the annotation file such as {coco_id['id']}"
    return (
        f"they have ids such as {name!r}, and the images have names such as {image!r}: give the COCO file with the "
        "names of the ids with --prompt-images"
    )


def _found(keyed: pa.Table, planned: pa.Table) -> tuple[_Ids, _Ids, pa.Array]:
    """The image_id of each row, or _NONE or _SEVERAL; and its key, as a position in an array of keys, or -1."""
    encoded = _large(keyed["key"]).dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
    # Some name of a file may be the id of another image: a key is its text and whether that is an id.
    keys, positions = np.unique(2 * codes + keyed["is_image_id"].to_numpy(), return_inverse=True)
    is_named = keys >= 0
    names, is_id = encoded.dictionary.take(pa.array(keys[is_named] // 2)), keys[is_named] % 2 == 1
    found = np.full(len(names), _NONE)
    for index, asked in _match_strategies(names, is_id, planned):
        left = np.flatnonzero(found == _NONE)
        if not len(left):
            break
        found[left] = index.find(asked.take(pa.array(left)))
    by_key = np.full(len(keys), _NONE)
    by_key[is_named] = found
    return by_key[positions], codes, encoded.dictionary


def _match_strategies(
    names: pa.Array, is_id: npt.NDArray[np.bool_], planned: pa.Table
) -> Iterator[tuple[_Index, pa.Array]]:
    """Ways to match keys with images, the surest first: an index of names, and the keys in the form that it has."""
    ids = planned["image_id"].to_numpy()
    if _has_coco_ids(planned):
        coco_ids = pc.struct_field(pc.extract_regex(_large(planned["extra"]), _COCO_ID), "id")
        yield _index(_unquoted(coco_ids), ids), pc.if_else(pa.array(is_id), names, None)
        # The number of an image that was left out of the plan may be the name of another's file.
        is_number = pc.match_substring_regex(names, _WHOLE_NUMBER)
        names = pc.if_else(pc.and_(pa.array(is_id), is_number), None, names)
    uris = _large(planned["uri"])
    in_container = planned["location"].combine_chunks().is_valid()
    yield from _match_strategies_by_name(names, uris, in_container, ids)
    yield from _match_strategies_by_name(one_form(names), one_form(uris), in_container, ids)


def _has_coco_ids(planned: pa.Table) -> bool:
    """Whether the plan was made from a COCO file."""
    return bool(pc.any(pc.match_substring_regex(planned["extra"], _COCO_ID)).as_py())


def _match_strategies_by_name(
    names: pa.Array, uris: pa.Array, in_container: pa.Array, ids: _Ids
) -> Iterator[tuple[_Index, pa.Array]]:
    yield _index(uris, ids), names
    before, nothing = (pa.scalar(text, pa.large_string()) for text in ("file://", ""))
    yield _index(uris, ids), pc.binary_join_element_wise(before, names, nothing)
    # A member of an archive is what stands behind the #, as if the archive were a folder.
    has_members = pc.any(in_container).as_py()
    paths = pc.if_else(in_container, pc.replace_substring(uris, "#", "/"), uris) if has_members else uris
    asked = pc.replace_substring_regex(names, r"^(?:\.{1,2}/)+", "")
    asked = pc.replace_substring(asked, "#", "/") if has_members else asked
    depths = pc.fill_null(pc.count_substring(asked, "/"), -1).to_numpy(zero_copy_only=False)
    deepest = pc.max(pc.count_substring(paths, "/")).as_py() or 0
    for shorten in (False, True):
        for depth in np.unique(depths[(depths >= 0) & (depths < deepest)]):
            ends = _end(paths, int(depth))
            of_depth = pc.if_else(pa.array(depths == depth), asked, None)
            yield (_index(pc.replace_substring_regex(ends, _SUFFIX, "") if shorten else ends, ids), of_depth)
    numbers = pc.if_else(pc.match_substring_regex(names, _WHOLE_NUMBER), pc.ascii_ltrim(names, "0"), None)
    stems = pc.replace_substring_regex(_end(paths, 0), _SUFFIX, "")
    is_number = pc.match_substring_regex(stems, r"^\d+$")
    yield _index(pc.if_else(is_number, pc.ascii_ltrim(stems, "0"), None), ids), numbers


def _large(texts: pa.ChunkedArray) -> pa.Array:
    """One array: of more than two gigabytes only large_string holds them."""
    return texts.cast(pa.large_string()).combine_chunks()


def _end(paths: pa.Array, depth: int) -> pa.Array:
    """The last depth + 1 parts of each path; null where there are fewer."""
    pattern = rf"(?s)/(?P<end>[^/]+(?:/[^/]+){{{depth}}})$" if depth else r"(?s)/(?P<end>[^/]+)$"
    return pc.struct_field(pc.extract_regex(paths, pattern), "end")


def _index(names: pa.Array, ids: _Ids) -> _Index:
    is_named = names.is_valid()
    encoded = names.filter(is_named).dictionary_encode()
    codes, ids = encoded.indices.to_numpy(), ids[is_named.to_numpy(zero_copy_only=False)]
    image_ids = np.full(len(encoded.dictionary), _NONE)
    image_ids[codes] = ids
    image_ids[np.bincount(codes, minlength=len(image_ids)) > 1] = _SEVERAL
    return _Index(encoded.dictionary, image_ids)


def _unquoted(ids: pa.Array) -> pa.Array:
    if not pc.any(pc.starts_with(ids, '"')).as_py():
        return ids
    return pa.array([None if each is None else str(json.loads(each)) for each in ids.to_pylist()], pa.large_string())


def _log(image_ids: _Ids, codes: _Ids, names: pa.Array) -> None:
    if num_unnamed := int((codes < 0).sum()):
        logger.warning("%d rows name no image and are left out", num_unnamed)
    reasons = {_NONE: "images that are not planned", _SEVERAL: "several images at once"}
    for what, reason in reasons.items():
        missed = (image_ids == what) & (codes >= 0)
        if missed.any():
            example = names[int(codes[missed][0])].as_py()
            logger.warning("%d rows name %s, such as %r, and are left out", missed.sum(), reason, example)


def _log_numbers(keyed: pa.Table, planned: pa.Table, image_ids: _Ids, codes: _Ids, names: pa.Array) -> None:
    """Log ids that were matched with the numbers in file names: they may be ids of other images."""
    is_found = keyed["is_image_id"].to_numpy() & (image_ids >= 0)
    by_code = np.full(len(names), _NONE)
    by_code[codes[is_found]] = image_ids[is_found]
    is_taken = pc.match_substring_regex(names, _WHOLE_NUMBER).to_numpy(zero_copy_only=False) & (by_code >= 0)
    if is_taken.any():
        first = int(np.flatnonzero(is_taken)[0])
        (uri,) = planned["uri"].filter(pc.equal(planned["image_id"], int(by_code[first]))).to_pylist()
        logger.warning(
            "%d image_ids were taken for the numbers in file names, such as %s for %s; if that is wrong, give the COCO "
            "file with the names of the ids with --prompt-images",
            is_taken.sum(),
            names[first],
            re.split("[/#]", uri)[-1],
        )
