"""The HTTP clients of a process: one for each combination of certificate authorities and proxy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from opentelemetry.trace import Tracer
from pydantic import SecretStr

from gatehouse.oauth import open_http
from gatehouse.settings import IssuerSettings, OAuthClientSettings


class HttpClients:
    """Opens a client for an issuer when it is first needed.

    Args:
        issuers: Issuers whose tokens are accepted.
        tracer: Creates a span for each request.
        reload_seconds: Shortest time between two checks for changed authorities.
        stack: Closes the clients.
    """

    def __init__(
        self, issuers: Sequence[IssuerSettings], tracer: Tracer, reload_seconds: float, stack: AsyncExitStack
    ) -> None:
        self._issuers = issuers
        self._tracer = tracer
        self._reload_seconds = reload_seconds
        self._stack = stack
        self._clients: dict[tuple[Path | None, SecretStr | None], httpx.AsyncClient] = {}

    def __call__(self, settings: IssuerSettings | OAuthClientSettings) -> httpx.AsyncClient:
        """Return the client for the issuer that a section names.

        A client section without authorities or a proxy uses those of the accepted issuer.

        Raises:
            ConfigurationError: The CA file cannot be used.
        """
        ca_file, proxy = settings.ca_file, settings.proxy
        if isinstance(settings, OAuthClientSettings):
            issuer = settings.issuer or self._issuers[0].issuer
            accepted = next((other for other in self._issuers if other.issuer == issuer), None)
            if accepted is not None:
                ca_file, proxy = ca_file or accepted.ca_file, proxy or accepted.proxy
        client = self._clients.get((ca_file, proxy))
        if client is None:
            client = open_http(
                ca_file,
                proxy.get_secret_value() if proxy is not None else None,
                tracer=self._tracer,
                reload_seconds=self._reload_seconds,
            )
            self._clients[ca_file, proxy] = client
            self._stack.push_async_callback(client.aclose)
        return client
