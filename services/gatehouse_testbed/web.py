"""Serve a web application from the running event loop, on loopback."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from gatehouse_testbed.errors import TestbedError


class _Server(uvicorn.Server):
    """Leaves the signals of the process to its owner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Bind a port; 0 takes a free one.

    Args:
        host: Host name or address; `::` also includes all IPv4 addresses.
        port: Port.

    Raises:
        TestbedError: The port is taken, or the host is not this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((host, port))
            stack.pop_all()
    except OSError as error:
        hint = "use an address of this machine"
        if error.errno == errno.EADDRINUSE:
            hint = "stop what listens there or use another port"
        elif error.errno in {errno.EACCES, errno.EPERM}:
            hint = "use another port"
        raise TestbedError(f"{netloc(host, port)}: cannot listen ({error.strerror}); {hint}") from None
    return listener


def netloc(host: str, port: int) -> str:
    """Return host and port as in a URL and in a gRPC target."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@asynccontextmanager
async def serve_app(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on `listener` until the context ends; the listener is closed then."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=1000,
        # Otherwise uvicorn reads them from the environment (WEB_CONCURRENCY, FORWARDED_ALLOW_IPS).
        workers=1,
        proxy_headers=False,
        forwarded_allow_ips="",
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()
