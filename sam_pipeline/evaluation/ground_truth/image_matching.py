"""Which image of a run each image of the ground truth is."""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from sam_pipeline.errors import InputError
from sam_pipeline.evaluation.ground_truth.annotation_file import TruthImage
from sam_pipeline.storage.inputs.lists.coco import coco_image_id
from sam_pipeline.storage.inputs.name_forms import one_form

_SHOWN = 3


def match_images(images: Sequence[TruthImage], uris: Sequence[str], extras: Sequence[str | None]) -> dict[int, int]:
    """Find the image of a run that has the file_name of each image of the ground truth.

    A file_name matches a whole URI, or the part of it below the folder that holds all images of the run; or else the
    end of a URI, from a slash on. The last part alone is compared only if no image with that last part was matched by
    its path: else a frame of one video could match that of another. `%20`, backslashes and decomposed letters count as
    what they mean. Where the file has no names, its ids are looked for among those that the run's own COCO file gave.

    Args:
        images: of the ground truth.
        uris: of the run.
        extras: what the source said of each, as it is stored.

    Returns:
        Number of the URI by number of the image; nothing for an image that the run does not have.

    Raises:
        InputError: a name fits several URIs, or two names fit one; a few are named.
    """
    if all(image.file_name is None for image in images):
        return match_ids(images, extras)
    paths = _paths(uris)
    root = os.path.commonprefix(paths).rpartition("/")[0]  # noqa: RUF071  characters are what is wanted, up to a slash
    names = _paths([image.file_name or "" for image in images])
    fitting = _ending_with(set(names), paths)
    for name, numbers in fitting.items():
        exact = [number for number in numbers if paths[number] in (name, f"{root}/{name}")]
        fitting[name] = exact or numbers
    files_found = {_file(name) for name in fitting}
    by_file = _ending_with({_file(name) for name in names} - files_found, paths)
    found = {position: fitting.get(name) or by_file.get(_file(name), []) for position, name in enumerate(names)}
    return _certain({position: numbers for position, numbers in found.items() if numbers}, images, uris)


def match_ids(images: Sequence[TruthImage], extras: Sequence[str | None]) -> dict[int, int]:
    """The same by the ids of the COCO file that the run's images were read from."""
    numbers = {coco_image_id(extra): number for number, extra in enumerate(extras)}
    numbers.pop(None, None)
    return {position: numbers[image.image_id] for position, image in enumerate(images) if image.image_id in numbers}


def _paths(names: Sequence[str]) -> list[str]:
    """Names in one form, as paths: a member of an archive is in it as in a folder."""
    forms: list[str] = one_form(pa.array(names, pa.large_string())).to_pylist()
    return [form.replace("#", "/").lstrip("/").removeprefix("./") for form in forms]


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _ending_with(names: Iterable[str], paths: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of the paths that end with each name, from a slash on, ascending; nothing for a name of none."""
    # Read backwards, such paths begin with the name, and so are neighbours.
    backwards = sorted((f"{path[::-1]}/", number) for number, path in enumerate(paths))
    found = {}
    for name in filter(None, names):
        begin, end = (bisect.bisect_left(backwards, (f"{name[::-1]}{after}",)) for after in "/0")  # 0 follows the slash
        if begin < end:
            found[name] = sorted(number for _, number in backwards[begin:end])
    return found


def _certain(found: Mapping[int, Sequence[int]], images: Sequence[TruthImage], uris: Sequence[str]) -> dict[int, int]:
    unclear = [position for position, numbers in found.items() if len(numbers) > 1]
    if unclear:
        raise InputError(
            f"{len(unclear)} images of the ground truth fit several images of the run, such as "
            + "; ".join(
                f"{images[position].file_name!r}: {_listed(uris[number] for number in found[position])}"
                for position in unclear[:_SHOWN]
            )
            + "; their file_name must hold more of the path"
        )
    positions: dict[int, list[int]] = defaultdict(list)
    for position, (number,) in found.items():
        positions[number].append(position)
    if doubled := [number for number, some in positions.items() if len(some) > 1]:
        raise InputError(
            f"{len(doubled)} images of the run fit several images of the ground truth, such as "
            + "; ".join(
                f"{uris[number]!r}: {_listed(str(images[position].file_name) for position in positions[number])}"
                for number in doubled[:_SHOWN]
            )
        )
    return {position: number for position, (number,) in found.items()}


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    return " and ".join(map(repr, some[:2])) + (" …" if len(some) > 2 else "")
