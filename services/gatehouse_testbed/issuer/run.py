"""Run the development issuer on loopback."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.issuer.app import create_app
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.web import listen, serve_app


@dataclass(frozen=True, slots=True)
class RunningIssuer:
    """A running issuer.

    Attributes:
        issuer: Issuer URL, the `iss` of its tokens.
        base_url: URL of the server.
    """

    issuer: str
    base_url: str


@asynccontextmanager
async def run_issuer(
    realm: Realm,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] = time.time,
    admin_password: str | None = None,
    keys: SigningKeys | None = None,
) -> AsyncIterator[RunningIssuer]:
    """Run the issuer until the context ends.

    Args:
        realm: Its realm.
        host: A loopback address.
        port: Port to listen on, 0 for a free one.
        clock: Seconds since the epoch.
        admin_password: See create_app.
        keys: See create_app.

    Raises:
        TestbedError: The address is not a loopback address, or the port is taken.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise TestbedError(f"{host}: the development issuer listens on loopback only; use 127.0.0.1 or ::1")
    listener = listen(host, port)
    address = f"[{host}]" if ":" in host else host
    base_url = f"http://{address}:{listener.getsockname()[1]}"
    app = create_app(realm, base_url=base_url, clock=clock, admin_password=admin_password, keys=keys)
    async with serve_app(app, listener):
        yield RunningIssuer(f"{base_url}/realms/{realm.name}", base_url)
