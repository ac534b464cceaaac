"""Free ports on loopback."""

from __future__ import annotations

import secrets
import socket

HOST = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections, so that none of these takes one of ours.
_FREE_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def free_port() -> int:
    """Return a port that is free now."""
    while not is_free(port := secrets.choice(_FREE_PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True
