"""What planning passes over and says so: hidden folders, Delta tables, links, files that cannot be kept."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

logger = logging.getLogger(__name__)

Kind = Literal["hidden folder", "table folder", "linked folder", "link", "not kept"]

LOG_FOLDER = "_delta_log"
"""What a folder with a Delta table has in it, such as those of this program's outputs."""

# Of Synology, QNAP, NetApp, macOS, Windows and Linux: thumbnails, old versions, what was deleted.
_SYSTEM_FOLDERS = (
    r"@eadir|#recycle|#snapshot|@recycle|@recently-snapshot|~snapshot|__macosx|\$recycle\.bin|"
    rf"system volume information|lost\+found|{LOG_FOLDER}"
)
_HIDDEN_FOLDER = re.compile(rf"(?i)/((?:\.(?!\.?/)[^/]+|{_SYSTEM_FOLDERS}))(?=/)")

_WORDS: dict[Kind, tuple[int, str]] = {
    "hidden folder": (logging.INFO, "passed over %d hidden or system folders, such as %s"),
    "table folder": (logging.INFO, "passed over %d folders of Delta tables, such as %s"),
    "linked folder": (
        logging.WARNING,
        "did not follow %d links to folders, such as %s: what is behind them is no part of the input",
    ),
    "link": (
        logging.WARNING,
        "did not follow %d links in archives, such as %s: they are no images of the input; pack the files themselves",
    ),
    "not kept": (logging.WARNING, "could not keep %d files beside their images, such as %s"),
}


def hidden_folder(path: str, start: int = 0, named: frozenset[str] = frozenset()) -> str | None:
    """The first hidden or system folder that a file is in, as the beginning of its path; None if there is none.

    Args:
        path: of the file, or of a folder with a slash at its end. Only folders behind a slash count.
        start: where to begin: what stands before was named by the user.
        named: folders that the user named as well.
    """
    for found in _HIDDEN_FOLDER.finditer(path, start):
        if found[1] not in named:
            return path[: found.end()]
    return None


@dataclass
class PassedOver:
    """How many there are of each kind, with an example."""

    folders: defaultdict[Kind, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Each once: in a listing of all that is below a prefix they come with every file in them."""
    files: defaultdict[Kind, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[Kind, str] = field(default_factory=dict)
    """One name of each kind of file: there may be millions."""

    def add(self, kind: Kind, name: str) -> None:
        """Note a folder, or a file."""
        if kind.endswith("folder"):
            self.folders[kind].add(name)
        else:
            self.files[kind] += 1
            self.examples.setdefault(kind, name)

    def update(self, other: PassedOver) -> None:
        """Note all of another part of a listing."""
        for kind, names in other.folders.items():
            self.folders[kind] |= names
        for kind, count in other.files.items():
            self.files[kind] += count
        self.examples = other.examples | self.examples

    def log(self) -> None:
        """Say how many there are, with an example of each kind."""
        counts = {kind: (len(names), min(names)) for kind, names in self.folders.items()}
        counts |= {kind: (count, self.examples[kind]) for kind, count in self.files.items()}
        for kind, (count, example) in counts.items():
            level, words = _WORDS[kind]
            logger.log(level, words, count, example)
