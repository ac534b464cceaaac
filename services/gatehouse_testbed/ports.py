"""Ports of the stack, all on loopback."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from gatehouse.app.services import SERVICES
from gatehouse_console.config import DEFAULT_PORT
from gatehouse_testbed.errors import TestbedError

HOST = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections, so that none of these takes one of ours.
_FREE_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts of the stack listen.

    Attributes:
        issuer: Development issuer.
        traces: Jaeger query API.
        console: Web console, where one runs.
        services: Each service, by its name.
    """

    issuer: int
    traces: int
    console: int
    services: Mapping[str, int]

    @classmethod
    def default(cls) -> Ports:
        """Return the default ports."""
        return cls(8080, 16686, DEFAULT_PORT, {name: spec.default_port for name, spec in SERVICES.items()})

    @classmethod
    def free(cls) -> Ports:
        """Return ports that are free now."""
        issuer, traces, console, *services = free_ports(len(SERVICES) + 3)
        return cls(issuer, traces, console, dict(zip(SERVICES, services, strict=True)))

    def check(self) -> None:
        """Check that all ports are free.

        Raises:
            TestbedError: A port is taken.
        """
        ports = {"issuer": self.issuer, "traces": self.traces, "console": self.console, **self.services}
        for name, port in ports.items():
            if not _is_free(port):
                raise TestbedError(
                    f"port {port} of {name} is taken; stop what listens there (`ss -ltnp sport = :{port}` "
                    "names it), or use free ports with `gatehouse demo --keep --free-ports`"
                )


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def free_port() -> int:
    """Return a port that is free now."""
    while not _is_free(port := secrets.choice(_FREE_PORTS)):
        pass
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True
