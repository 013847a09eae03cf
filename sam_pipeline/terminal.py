"""The console that everything is printed on: text from outside is shown, and never obeyed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sam_pipeline.clean_text import printable, without_credentials


class PlainConsole(Console):
    """A console whose text cannot control the terminal; only what rich itself draws can."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with what does not print replaced. All that is printed comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_printable_lines(segment.text))

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


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _lines_without_credentials(text: str) -> str:
    return "\n".join(map(without_credentials, text.split("\n")))
