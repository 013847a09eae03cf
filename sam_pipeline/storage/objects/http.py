"""Fetching single images that a manifest names by http, from servers that are not trusted."""

from __future__ import annotations

from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from sam_pipeline.safety.guarded_http import guarded_client
from sam_pipeline.storage.objects.retrying import RANGE_NOT_SATISFIABLE

# As for storage: a stall costs seconds. The read time-out is the time between two arrivals of data.
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20
# From the request to the last byte, which a server could otherwise send one by one for ever.
_TOTAL_TIMEOUT_S = 300


class HttpImages(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's HTTP file system for reading files by name, through the guarded client.

    Files are read with cat_file and cat_ranges, which raise InternalAddressError, FileNotFoundError (404 and 410), or
    aiohttp's errors. If a server ignores a range and sends the whole file, or sends without end, reading stops at the
    end of the range: hardly more than the range is ever in memory.
    """

    def __init__(self) -> None:
        super().__init__(get_client=_image_client)

    def unstrip_protocol(self, name: str) -> str:
        """The URL is the path too."""
        return name

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        first = start or 0
        if end is not None and first >= end:
            return b""
        ranged = start is not None or end is not None
        headers = {"Range": f"bytes={first}-{'' if end is None else end - 1}"} if ranged else {}
        session = await self.set_session()
        # identity: what is counted and compared is what the server stores.
        async with session.get(self.encode_url(url), headers={"Accept-Encoding": "identity", **headers}) as response:
            if response.status == RANGE_NOT_SATISFIABLE and first == 0:
                return b""  # an empty file has no ranges
            if response.status in (404, 410):
                raise FileNotFoundError(url)
            response.raise_for_status()
            skipped = 0 if response.status == 206 else first
            return await _read(response, skipped, None if end is None else end - first)


async def _image_client(**session_options: Any) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=_TOTAL_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
    # Thousands of servers would leave their cookies in a process that lives for days.
    return await guarded_client(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), **session_options)


async def _read(response: aiohttp.ClientResponse, skipped: int, length: int | None) -> bytes:
    """Bytes skipped ≤ i < skipped + length of an answer's body; to its end where length is None."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if skipped:
            dropped = min(skipped, len(body))
            del body[:dropped]
            skipped -= dropped
        if length is not None and len(body) >= length:
            del body[length:]
            break
    return bytes(body)
