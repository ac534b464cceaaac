"""Where a test bed listens, and the name by which its clients reach it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gatehouse.app.services import SERVICES
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.ports import HOST
from gatehouse_testbed.web import netloc

CONTROL_PORT, ISSUER_PORT = 8081, 8080
_ALL = ("0.0.0.0", "::")  # noqa: S104 - only if the user asks for it
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a test bed listens.

    Attributes:
        host: Address to listen on.
        name: Host name by which clients reach it: in its URLs, targets and certificates.
        control: Port of the control API, 0 for a free one.
        issuer: Port of the issuer, 0 for a free one.
        services: Port of each service, by its name; those that are missing use free ones.
    """

    host: str = HOST
    name: str = HOST
    control: int = 0
    issuer: int = 0
    services: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def create(
        cls, host: str, name: str | None, control: int, issuer: int, *, default_ports: bool
    ) -> Addresses:
        """Fill in what is not given.

        Args:
            host: Address to listen on.
            name: Host name by which clients reach it. By default, `localhost` if `host` means all
                addresses, and else `host`.
            control: Port of the control API, 0 for the default.
            issuer: Port of the issuer, 0 for the default.
            default_ports: Whether the default of a port is always the same, and not a free one.

        Raises:
            TestbedError: A host is malformed.
        """
        host = _checked("--host", host)
        default_name = "localhost" if host in _ALL else host
        name = default_name if name is None else _checked("--name", name)
        if not default_ports:
            return cls(host, name, control, issuer)
        ports = {service: spec.default_port for service, spec in SERVICES.items()}
        return cls(host, name, control or CONTROL_PORT, issuer or ISSUER_PORT, ports)

    @property
    def local(self) -> str:
        """Host by which the parts of the test bed reach each other."""
        return HOST if self.host in _ALL else self.host

    def url(self, port: int) -> str:
        """Return the URL of a port for clients."""
        return f"http://{netloc(self.name, port)}"

    def local_url(self, port: int) -> str:
        """Return the URL of a port for the test bed itself."""
        return f"http://{netloc(self.local, port)}"


def _checked(option: str, host: str) -> str:
    """Return a host name, or an IP address in its usual form."""
    if _NAME.fullmatch(host):
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:  # a URL has no room for the zone
        raise TestbedError(f"{option} {host!r}: must be a host name or an IP address, without a port")
    return str(address)
