"""Runs the issuer on loopback, and only there."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from gatehouse_testbed.issuer.app import create_app
from gatehouse_testbed.issuer.realm import Realm


class IssuerError(Exception):
    """The issuer cannot listen there; the message is one line that says why and how to fix it."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class RunningIssuer:
    """An issuer that answers.

    Attributes:
        issuer: Its issuer URL.
        base_url: Where it is reached.
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
) -> AsyncIterator[RunningIssuer]:
    """Runs the issuer until the context ends.

    Args:
        realm: What it knows.
        host: An address of loopback.
        port: Port to listen on; 0 takes a free one.
        clock: Seconds since the epoch.
        admin_password: See create_app.

    Raises:
        IssuerError: The address is not loopback, or taken.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise IssuerError(f"{host}: the development issuer listens on loopback only; use 127.0.0.1 or ::1")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise IssuerError(
            f"{host}:{port}: cannot listen there ({error.strerror}); name another --port"
        ) from None
    name = f"[{host}]" if ":" in host else host
    base_url = f"http://{name}:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        create_app(realm, base_url=base_url, clock=clock, admin_password=admin_password),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=1000,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(_serve(server, listener))
    try:
        while not server.started:
            if serving.done():
                await serving
                raise IssuerError(f"{base_url}: the issuer ended at once")
            await asyncio.sleep(0.005)
        yield RunningIssuer(f"{base_url}/realms/{realm.name}", base_url)
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # `serve` would take the signals of the process for itself; they are the caller's.
    await server._serve([listener])  # noqa: SLF001 - uvicorn has no public way without signal handlers
