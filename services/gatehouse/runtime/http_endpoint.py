"""The HTTP endpoint of a process: its metrics for Prometheus, and its health for probes over HTTP.

The gRPC probes of Kubernetes cannot use TLS, and a command in the container starts an interpreter each time.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from gatehouse.settings import ConfigurationError, TelemetrySettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LIVE, READY = "/livez", "/readyz"
_LOOP_SECONDS = 2.0
_REQUEST_SECONDS = 10.0


class HttpHealth:
    """What the probes report: `/livez` that the event loop responds, `/readyz` that all services are ready.

    Args:
        loop_seconds: Time in which the event loop must respond.
    """

    def __init__(self, loop_seconds: float = _LOOP_SECONDS) -> None:
        self._loop_seconds = loop_seconds
        self._source: tuple[asyncio.AbstractEventLoop, Callable[[], Sequence[str]]] | None = None

    def report(self, problems: Callable[[], Sequence[str]]) -> None:
        """Report the health of servers that run on the current event loop.

        Args:
            problems: Called on the event loop; returns why they are not ready, nothing if they are.
        """
        self._source = asyncio.get_running_loop(), problems

    def problems(self, path: str) -> Sequence[str]:
        """Return why the probe `path` fails, nothing if it succeeds; blocks, so call it in another thread."""
        if self._source is None:
            return ["STARTING"]
        loop, find_problems = self._source
        found: list[str] = []
        responded = threading.Event()

        def respond() -> None:
            found.extend(find_problems() if path == READY else ())
            responded.set()

        try:
            loop.call_soon_threadsafe(respond)
        except RuntimeError:  # closed, because the process ends
            return ["STOPPED"]
        return found if responded.wait(self._loop_seconds) else ["the event loop does not respond"]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name in the base class
        """Write no line for a request."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, family: int, address: tuple[str, int], request_seconds: float) -> None:
        self.address_family = family
        self._request_seconds = request_seconds
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and limit the time that its client has to send a request."""
        connection, address = super().get_request()
        connection.settimeout(self._request_seconds)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: the client broke the connection, or sent no request in time."""
        del request, client_address


def start_http_endpoint(
    settings: TelemetrySettings,
    registry: CollectorRegistry,
    health: HttpHealth,
    request_seconds: float = _REQUEST_SECONDS,
) -> int:
    """Serve metrics and health in threads, and return the port.

    Args:
        settings: Address.
        registry: The metrics.
        health: The health.
        request_seconds: Time that a client has to send its request; each connection takes a thread.

    Raises:
        ConfigurationError: The address cannot be used.
    """
    # Imported here because only a process that serves metrics needs it.
    from prometheus_client import make_wsgi_app  # noqa: PLC0415

    metrics = make_wsgi_app(registry)
    host, port = settings.metrics_host, settings.metrics_port or 0

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in {LIVE, READY}:
            response: Iterable[bytes] = metrics(environ, start_response)
            return response
        problems = health.problems(path)
        status = "503 Service Unavailable" if problems else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return ["".join(f"{line}\n" for line in problems or ["ok"]).encode()]

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        web = _Server(family, (str(address[0]), port), request_seconds)
    except OSError as error:
        setting = "METRICS_PORT" if error.errno == errno.EADDRINUSE else "METRICS_HOST"
        raise ConfigurationError(
            f"GATEHOUSE_TELEMETRY__{setting}: cannot listen on {host}:{port} ({error.strerror}); "
            "set another one"
        ) from None
    web.set_app(app)
    threading.Thread(target=web.serve_forever, name="http-endpoint", daemon=True).start()
    return web.server_port
