"""An HTTP client that does not connect to this machine, its neighbours, or a cloud's metadata service.

The address of each connection is checked when it is made. So it does not matter how the address was spelt, which name
stood for it, what that name stood for a moment before, or which redirect led there.
"""

from __future__ import annotations

import socket
from typing import Any

import aiohttp

from sam_pipeline.errors import InternalAddressError
from sam_pipeline.safety.uri_rules import is_internal_address


async def guarded_client(**session_options: Any) -> aiohttp.ClientSession:
    """Open a session of such a client, as fsspec's HTTP file system wants it.

    Its requests raise InternalAddressError where a connection would lead to an internal address.
    """
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_guarded_socket), **session_options)


def _guarded_socket(address_info: Any) -> socket.socket:
    family, kind, protocol, _, address = address_info
    if is_internal_address(address[0]):
        # Not an OSError: to aiohttp that is an address that failed, and to fsspec a file that is not there.
        raise InternalAddressError(f"nothing is fetched from internal addresses, got {address[0]}")
    return socket.socket(family, kind, protocol)
