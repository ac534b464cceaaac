"""Ports of the stack, all on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gatehouse.app.services import SERVICES
from gatehouse_console.config import DEFAULT_PORT
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.ports import free_ports, is_free


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
            if not is_free(port):
                raise TestbedError(
                    f"port {port} of {name} is taken; stop what listens there (`ss -ltnp sport = :{port}` "
                    "names it), or use free ports with `gatehouse demo --keep --free-ports`"
                )
