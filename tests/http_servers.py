"""HTTP servers on loopback, in a thread of the test."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ports import LOOPBACK


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[http.server.ThreadingHTTPServer]:
    """Answer requests until the block ends, and log none; what is set on the server yielded, its handlers see."""
    quiet = type("QuietHandler", (handler,), {"log_message": lambda self, *args: None})
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
