"""HTTP clients for issuers: their authorities, which are reloaded, their proxy, and stale connections."""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
from opentelemetry.trace import Tracer

from gatehouse.oauth._http import FETCH_SECONDS
from gatehouse.oauth.tracing import TracedTransport
from gatehouse.settings import ConfigurationError, FileCheck

RELOAD_SECONDS = 5.0
_logger = logging.getLogger(__name__)


class ClientCertificate(NamedTuple):
    """The certificate of a client, with its chain, and its private key, unencrypted, as PEM files."""

    certificate_file: Path
    private_key_file: Path


def open_http(
    ca_file: Path | None = None,
    proxy: str | None = None,
    *,
    certificate: ClientCertificate | None = None,
    tracer: Tracer | None = None,
    reload_seconds: float = RELOAD_SECONDS,
) -> httpx.AsyncClient:
    """Open an HTTP client that follows no redirects and ignores proxies of the environment.

    Args:
        ca_file: PEM certificate authorities to trust in addition to the system's.
        proxy: URL of an HTTP proxy, with its credentials.
        certificate: Certificate of the client, for mutual TLS (RFC 8705); reloaded when its files change.
        tracer: Creates a span for each request; None creates none.
        reload_seconds: Shortest time between two checks for changed authorities.

    Raises:
        ConfigurationError: The CA file or the certificate cannot be used.
    """
    transport: httpx.AsyncBaseTransport = IssuerTransport(
        ca_file, proxy, reload_seconds, certificate=certificate
    )
    if tracer is not None:
        transport = TracedTransport(tracer, transport)
    return httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)


class IssuerTransport(httpx.AsyncBaseTransport):
    """Sends requests to issuers.

    If a server closes a kept-alive connection just when a request is sent on it, the request is sent once
    more, on a new connection (RFC 9112 section 9.3.1). All requests of Gatehouse to issuers may be repeated.

    When a file of authorities changes, new requests use new connections. Requests in progress end before the
    old connections are closed, as each is limited to FETCH_SECONDS.

    Args:
        ca_file: PEM certificate authorities to trust in addition to the system's.
        proxy: URL of an HTTP proxy, with its credentials.
        reload_seconds: Shortest time between two checks for changed authorities.
        monotonic: Seconds of a monotonic clock.
        certificate: Certificate of the client, for mutual TLS.

    Raises:
        ConfigurationError: The CA file or the certificate cannot be used.
    """

    def __init__(
        self,
        ca_file: Path | None,
        proxy: str | None,
        reload_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        certificate: ClientCertificate | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._proxy = proxy
        self._certificate = certificate
        system = ssl.get_default_verify_paths().cafile
        files = [Path(system)] if system else []
        files += [ca_file] if ca_file else []
        self._files = FileCheck([*files, *(certificate or ())], reload_seconds, monotonic)
        self._refused = ""
        self._transports = self._open()
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; see httpx.AsyncBaseTransport."""
        if self._files.changed():
            self._reload()
        kept_alive, unshared = self._transports
        is_new = False

        async def trace(event: str, _: object) -> None:
            nonlocal is_new
            is_new = is_new or "connect_tcp" in event

        request.extensions["trace"] = trace
        try:
            return await kept_alive.handle_async_request(request)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if is_new:
                raise
        return await unshared.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        closing = list(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        for transport in self._transports:
            await transport.aclose()

    def _open(self) -> tuple[httpx.AsyncHTTPTransport, httpx.AsyncHTTPTransport]:
        """Open one transport that keeps connections alive, and one that opens a connection per request."""
        load = _shared_authorities if self._certificate is None else _load_authorities
        context = load(ssl.get_default_verify_paths(), self._ca_file, self._files.versions)
        if self._certificate is not None:
            _load_certificate(context, self._certificate)
        proxy = None
        if self._proxy is not None:
            over_tls = self._proxy.startswith("https:")
            proxy = httpx.Proxy(self._proxy, ssl_context=context if over_tls else None)
        kept_alive, unshared = (
            httpx.AsyncHTTPTransport(
                verify=context,
                proxy=proxy,
                trust_env=False,
                # Unlimited, because a request must not wait here; introspections are limited elsewhere.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),
            )
            for connections in (None, 0)
        )
        return kept_alive, unshared

    def _reload(self) -> None:
        old = self._transports
        try:
            self._transports = self._open()
        except ConfigurationError as error:  # perhaps half-written
            if str(error) != self._refused:
                self._refused = str(error)
                _logger.error("certificate authorities refused: %s", error)  # noqa: TRY400 - expected
            return
        self._refused = ""
        self._files.accept()
        _logger.info("certificate authorities reloaded")
        for transport in old:
            task = asyncio.create_task(_close_later(transport))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _load_authorities(
    system: ssl.DefaultVerifyPaths, ca_file: Path | None, versions: object
) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities and those in a file.

    Args:
        system: Where the system has its authorities.
        ca_file: The file; None if there is none.
        versions: Versions of the files.
    """
    del system, versions  # _shared_authorities loads again if they are new
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or getattr(error, "reason", None) or "no PEM certificate"
            raise ConfigurationError(f"{ca_file}: not usable as a CA file ({reason})") from None
    return context


# Clients share them, because to load those of the system takes 30 ms and a megabyte.
_shared_authorities = functools.lru_cache(maxsize=8)(_load_authorities)


def _load_certificate(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    try:
        # With a password, OpenSSL does not ask for one in the terminal.
        context.load_cert_chain(*certificate, password="")
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "no PEM certificate and key"
        files = " and ".join(map(str, certificate))
        raise ConfigurationError(f"{files}: not usable as a client certificate ({reason})") from None


async def _close_later(transport: httpx.AsyncHTTPTransport) -> None:
    try:
        await asyncio.sleep(2 * FETCH_SECONDS)
    finally:
        await transport.aclose()
