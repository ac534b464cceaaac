"""Serve the console until a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import typer
import uvicorn

from gatehouse.cli import ExitCode
from gatehouse.client.profile import Profile, local_target
from gatehouse.runtime.files import write_json
from gatehouse_console.app import open_app
from gatehouse_console.config import Link, Origin

_MAX_CONNECTIONS = 1000


async def serve(
    profile: Profile,
    host: str,
    port: int,
    origin: Origin | None,
    links: Sequence[Link],
    ready_file: Path | None,
) -> int:
    """Serve the console, print its URL, and run until SIGTERM or SIGINT.

    Args:
        profile: The system to show.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        origin: Where browsers find it; None for the address that it listens on.
        links: Other tools that every page links to.
        ready_file: Gets the URL, as JSON.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: The CA file of the profile cannot be used.
        OSError: The port is not available.
    """
    # uvicorn stops at these signals; what Python would do at them is not to happen as well.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    with _listen(host, port) as listener:
        origin = origin or Origin.parse(f"http://{local_target(host, listener.getsockname()[1])}")
        async with open_app(profile, origin, links) as app:
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    log_config=None,
                    # Its messages may contain values of requests; the application prints its own errors.
                    log_level="critical",
                    access_log=False,
                    lifespan="off",
                    server_header=False,
                    timeout_graceful_shutdown=1,
                    limit_concurrency=_MAX_CONNECTIONS,
                    # Otherwise uvicorn reads them from the environment (WEB_CONCURRENCY, ...).
                    workers=1,
                    proxy_headers=False,
                    forwarded_allow_ips="",
                )
            )
            typer.echo(f"console: {origin.url}")
            if ready_file is not None:
                write_json(ready_file, {"url": origin.url})
            await server.serve([listener])
    return ExitCode.OK


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(
            f"{host}:{port}: cannot listen ({error.strerror}); stop what listens there or use another --port"
        ) from None
    return listener
