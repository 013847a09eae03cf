"""Free ports on loopback for servers that tests start."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free_ports(count: int, *, also_above: int = 0) -> list[int]:
    """Ports that nobody listens on now.

    They lie below the kernel's range for outgoing connections, one of which could otherwise take a port by chance
    before its server does.

    Args:
        count: how many.
        also_above: the port this much above each must be free as well.
    """
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = 20_000 + secrets.randbelow(2_000)  # above what Ray gives to its workers, 10002 to 19999
            try:
                for number in {port, port + also_above}:
                    held.enter_context(socket.socket()).bind((LOOPBACK, number))
            except OSError:
                continue
            ports.append(port)
    return ports
