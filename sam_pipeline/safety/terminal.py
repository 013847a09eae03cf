"""The console that everything is printed on: text from outside is shown, and never obeyed."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sam_pipeline.safety.clean_text import printable, without_credentials

_SIGPIPE_EXIT_CODE = 141
"""What a shell reports of a program whose reader went away."""


class PlainConsole(Console):
    """A console whose text cannot control the terminal; only what rich itself draws can.

    Args:
        options: of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        # Nothing in a text is the name of a style or of a picture: "in:dog:1.jpg" is a file.
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with what does not print replaced. All that is printed comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_printable_lines(segment.text))

    def on_broken_pipe(self) -> None:
        """Be silent from now on. Where results were to be shown, the program ends as one that SIGPIPE killed.

        What goes to standard error is only said on the way: a run goes on without it.
        """
        self.quiet = True
        with open(os.devnull, "wb") as nothing:  # or Python would try once more as it ends
            os.dup2(nothing.fileno(), (sys.stderr if self.stderr else sys.stdout).fileno())
        if not self.stderr:
            raise SystemExit(_SIGPIPE_EXIT_CODE)

    def print_line(self, text: object) -> None:
        """Print one line: line breaks in it, which names of files may hold, do not begin another."""
        self.print(printable(str(text)), soft_wrap=True)

    def print_traceback(self) -> None:
        """Print the traceback of the exception being handled, without the credentials that its messages may hold."""
        self.print(_lines_without_credentials(traceback.format_exc().rstrip()), soft_wrap=True)


class CleanFormatter(logging.Formatter):
    """Formats a record as its message, on one line, and its traceback, both without credentials."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Replace line breaks in the message, which names of files may hold."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Message and traceback."""
        return _lines_without_credentials(super().format(record))


class LogHandler(logging.Handler):
    """Prints log records on a console, above a live display where there is one; each as it is, however long.

    Args:
        console: where to print.
    """

    def __init__(self, console: PlainConsole) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        self._console.print(self.format(record), soft_wrap=True, markup=False)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _lines_without_credentials(text: str) -> str:
    return "\n".join(map(without_credentials, text.split("\n")))
