"""Ports of the stack, all on loopback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gatehouse.app.services import SERVICES

# <part console>
from gatehouse_console.config import DEFAULT_PORT

# </part console>
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.ports import free_ports, is_free

# Where the parts beside the services listen by default.
_DEFAULTS = {"issuer": 8080, "traces": 16686}
# <part console>
_DEFAULTS["console"] = DEFAULT_PORT
# </part console>


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts of the stack listen.

    Attributes:
        services: Each service, by its name.
        others: The parts beside the services, by their names.
    """

    services: Mapping[str, int]
    others: Mapping[str, int]

    @classmethod
    def default(cls) -> Ports:
        """Return the default ports."""
        return cls({name: spec.default_port for name, spec in SERVICES.items()}, _DEFAULTS)

    @classmethod
    def free(cls) -> Ports:
        """Return ports that are free now."""
        found = dict(zip([*SERVICES, *_DEFAULTS], free_ports(len(SERVICES) + len(_DEFAULTS)), strict=True))
        return cls({name: found[name] for name in SERVICES}, {name: found[name] for name in _DEFAULTS})

    @property
    def issuer(self) -> int:
        """The development issuer."""
        return self.others["issuer"]

    @property
    def traces(self) -> int:
        """The Jaeger query API."""
        return self.others["traces"]

    def check(self) -> None:
        """Check that all ports are free.

        Raises:
            TestbedError: A port is taken.
        """
        for name, port in (*self.others.items(), *self.services.items()):
            if not is_free(port):
                raise TestbedError(
                    f"port {port} of {name} is taken; stop what listens there (`ss -ltnp sport = :{port}` "
                    "names it), or use free ports with `gatehouse demo --keep --free-ports`"
                )
