"""Break the connection of a call, for which gRPC has no means."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import unquote

import psutil


def disconnect(peer: str) -> None:
    """Shut down the connection of this process to a client; what has been written is still sent.

    Args:
        peer: The client, as gRPC names it: `ipv4:127.0.0.1:40000` or `ipv6:%5B::1%5D:40000`.
    """
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    wanted = (_plain(host.strip("[]")), int(port))
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and (_plain(connection.raddr.ip), connection.raddr.port) == wanted:
            # gRPC closes its own descriptor when it reads the end.
            with socket.socket(fileno=os.dup(connection.fd)) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; the IPv4 address if it is one in IPv6 notation (RFC 4291 section 2.5.5.2)."""
    address = ipaddress.ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address
