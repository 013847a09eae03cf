"""Which files below a folder or prefix are meant, and in which folders to look for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from glob import has_magic

from fsspec.utils import glob_translate

from sam_pipeline.storage.inputs.listing.passed_over import LOG_FOLDER, hidden_folder


@dataclass(frozen=True)
class PathPattern:
    """What a listing is to find: everything below a path, or what a glob matches; but not in hidden folders or tables.

    Paths are those of fsspec: without a scheme, with slashes, with none at the end.
    """

    path: str
    is_glob: bool = False
    """Whether the path is a glob: `*`, `?` and `[…]` stand for parts of one name, `**` for any folders."""
    left_out: tuple[str, ...] = ()
    """Folders that nothing is taken from."""

    @cached_property
    def stem(self) -> str:
        """What every match begins with."""
        return re.split(r"[*?[]", self.path, maxsplit=1)[0] if self.is_glob else self.path

    @cached_property
    def root(self) -> str:
        """The folder to begin in; empty for that of the filesystem."""
        return self.stem.rpartition("/")[0] if self.is_glob else self.path

    @cached_property
    def is_level_by_level(self) -> bool:
        """Whether all matches are at one depth, so that nothing below it needs to be listed."""
        return self.is_glob and "**" not in self.path

    def matches(self, name: str) -> bool:
        """Whether a file is one of those meant."""
        if name.startswith(self._left_out_prefixes) or self.hidden_folder(name) is not None:
            return False
        return not self.is_glob or self._regex.match(name) is not None

    def may_hold(self, folder: str) -> bool:
        """Whether a match may be in a folder, or below it."""
        if folder in self.left_out or self.hidden_folder(f"{folder}/") is not None:
            return False
        if not self.is_level_by_level:
            return True
        depth = folder.count("/")
        return depth < len(self._regexes_of_folders) and self._regexes_of_folders[depth].match(folder) is not None

    def hidden_folder(self, name: str) -> str | None:
        """The hidden or system folder that a file is in; None where there is none that the user has not named."""
        if name.startswith(self._left_out_prefixes):
            return None
        return hidden_folder(name, len(self.root.rstrip("/")), self._named)

    def table_folder(self, name: str) -> str | None:
        """The folder of the Delta table whose log a file is in; None where there is none, or the user has named it.

        Args:
            name: of the file, or of a folder with a slash at its end.
        """
        root = self.root.rstrip("/")
        folder, log, _ = name[len(root) :].partition(f"/{LOG_FOLDER}/")
        is_named = not folder or folder.rpartition("/")[2] in self._named or root + folder in self.left_out
        return None if not log or is_named else root + folder

    @cached_property
    def _named(self) -> frozenset[str]:
        """Folders that a glob names without a star."""
        return frozenset(self.path.split("/")[:-1]) if self.is_glob else frozenset()

    @cached_property
    def _left_out_prefixes(self) -> tuple[str, ...]:
        return tuple(f"{folder}/" for folder in self.left_out)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(glob_translate(self.path))

    @cached_property
    def _regexes_of_folders(self) -> list[re.Pattern[str]]:
        """For each level but the last what the pattern says of a folder there."""
        parts = self.path.split("/")[:-1]
        heads = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        return [re.compile(glob_translate(head) if has_magic(head) else re.escape(head) + r"\Z") for head in heads]
