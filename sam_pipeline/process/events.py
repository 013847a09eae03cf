"""Standard error as JSON, one event a line, for what collects logs: `--log-format json`.

Everything becomes an event: log records, and whatever any library prints. An event has `time` (ISO 8601, UTC), `level`
and `event` (what happened, in words), the ids that name the run and the start, and figures where there are any.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from sam_pipeline.process import stopping
from sam_pipeline.safety.clean_text import printable, without_credentials

# Colours and movements of the cursor; box drawings, with which tyro frames what it refuses.
_DRAWING = re.compile("\x1b\\[[0-9;?]*[a-zA-Z]|[\u2500-\u257f]")
_FRAME = "\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}"


class _State:
    """State of this process."""

    are_used = False
    ids: dict[str, str] = {}  # noqa: RUF012  as stopping._State, never made


def use_events() -> None:
    """Make events of all that goes to standard error, from now to the end of the process."""
    _State.are_used, _State.ids = True, {}
    handler = _EventHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    sys.stderr = _EventStream(handler, sys.stderr)
    stopping.speak_with(lambda line: handler.format(_record_of(line, logging.WARNING)))


def are_used() -> bool:
    """Whether standard error is JSON."""
    return _State.are_used


def name(**ids: str) -> None:
    """Put ids (run_id, start_id) into all later events; an id that was given before stays."""
    _State.ids = _State.ids | {key: text for key, text in ids.items() if key not in _State.ids}


def ids() -> dict[str, str]:
    """The ids that were given."""
    return dict(_State.ids)


class _JsonFormatter(logging.Formatter):
    """A record as an event. `extra={"figures": {…}}` gives it fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": printable(without_credentials(" ".join(record.getMessage().split()))),
            **_State.ids,
            **getattr(record, "figures", {}),
        }
        if record.exc_info:
            lines = self.formatException(record.exc_info).splitlines()
            event["traceback"] = "\n".join(map(without_credentials, lines))
        return json.dumps(event)


class _EventHandler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Go on: nobody reads any more. Logging itself would print to standard error."""


class _EventStream(io.TextIOBase):
    """Takes the place of standard error. What is written to it up to the end of a line is an event."""

    def __init__(self, handler: logging.Handler, stream: TextIO) -> None:
        self._handler, self._stream = handler, stream
        self._lock = threading.RLock()
        self._pending = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a variable in TextIOBase
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._pending = (self._pending + text).replace("\r\n", "\n").split("\n")
            self._pending = self._pending[:-1].rpartition("\r")[2] + self._pending[-1:]  # "\r" may be half of "\r\n"
            if lines:
                # A progress bar begins its line again with "\r": only the text after the last one counts.
                written = "\n".join(line.rpartition("\r")[2] for line in lines)
                if words := _DRAWING.sub(" ", written).strip():
                    level = logging.ERROR if _FRAME in written else logging.INFO
                    self._handler.handle(_record_of(words, level))
        return len(text)


def _record_of(line: str, level: int) -> logging.LogRecord:
    words = line.removeprefix("error: ")
    level = level if words == line else logging.ERROR
    return logging.LogRecord("sam_pipeline", level, "", 0, words, None, None)
