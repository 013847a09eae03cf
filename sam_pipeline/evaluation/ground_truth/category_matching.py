"""Which category of the ground truth each category of a run's masks is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sam_pipeline.errors import ConfigError
from sam_pipeline.evaluation.ground_truth.annotation_file import GroundTruth
from sam_pipeline.results.categories import OBJECT, read_categories, used_category_ids
from sam_pipeline.results.results import Results

_ANY = 1
"""The only category where categories are not compared."""


@dataclass(frozen=True)
class ComparedCategories:
    """Categories as they are compared: those of the ground truth, or one for all."""

    names: Mapping[int, str]
    """Names of all categories that are compared, by id."""
    of_masks: Mapping[int, int]
    """By category_id of a mask; nothing for those that the ground truth does not have."""
    class_agnostic: bool

    def of_mask(self, category_id: int | None) -> int | None:
        """What a mask is compared as; None for a mask that is not."""
        if self.class_agnostic:
            return _ANY
        return None if category_id is None else self.of_masks.get(category_id)

    def of_object(self, category_id: int | None) -> int | None:
        """What an object of the ground truth is compared as; None for one without a category that the file lists."""
        if self.class_agnostic:
            return _ANY
        return category_id if category_id in self.names else None


def match_categories(
    results: Results, truth: GroundTruth, *, class_agnostic: bool, place: str | None
) -> ComparedCategories:
    """Match categories by name where those of the run are known, or else by number.

    Args:
        results: of the run.
        truth: what it is compared with.
        class_agnostic: whether to leave categories out; they are left out in any case where no mask has one.
        place: of the names of the run's categories; None for what its prompts were read from.

    Raises:
        ConfigError: run and ground truth have no category in common.
        InputError: the names cannot be read.
    """
    used = set() if class_agnostic else used_category_ids(results)
    numbers = sorted(number for number in used if number is not None)
    if not numbers:
        return ComparedCategories({_ANY: OBJECT}, {}, class_agnostic=True)
    if not truth.categories:
        raise ConfigError(f"{truth.uri} has no categories, but the run does; compare class-agnostic")
    known = read_categories(results, place)
    if known.names:
        of_masks = _by_name({number: known.names[number] for number in numbers if number in known.names}, truth)
    else:
        of_masks = {number: number for number in numbers if number in truth.categories}
    if not of_masks:
        theirs, ours = next(iter(truth.categories.items())), (numbers[0], known.name(numbers[0]))
        raise ConfigError(
            f"run and ground truth have no category in common: the run has {ours[0]} ({ours[1]!r}), for example, and "
            f"the ground truth {theirs[0]} ({theirs[1]!r}); name the run's with categories, or compare class-agnostic"
        )
    return ComparedCategories(truth.categories, of_masks, class_agnostic=False)


def _by_name(names: Mapping[int, str], truth: GroundTruth) -> dict[int, int]:
    """Category of the ground truth by category of the run: of the same name, or else of one that differs in case alone.

    Names that differ in case alone on one side are different categories, and need the same name.
    """
    exact = {name: number for number, name in truth.categories.items()}
    theirs, ours = (Counter(map(_plain, some)) for some in (truth.categories.values(), names.values()))
    plain = {_plain(name): number for name, number in exact.items()}
    found = {}
    for number, name in names.items():
        if name in exact:
            found[number] = exact[name]
        elif theirs[_plain(name)] == ours[_plain(name)] == 1:
            found[number] = plain[_plain(name)]
    return found


def _plain(name: str) -> str:
    return name.strip().casefold()
