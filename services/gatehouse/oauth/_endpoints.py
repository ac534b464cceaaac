"""The endpoints of one issuer: configured ones, or those of its metadata, which may move."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from gatehouse.oauth._flight import SingleFlight, wait_at_most
from gatehouse.oauth._http import get_object
from gatehouse.oauth.discovery import Metadata, discover
from gatehouse.oauth.errors import IssuerUnavailable
from gatehouse.oauth.keys import START_SECONDS, backoff_seconds
from gatehouse.settings import IssuerSettings

# Shortest time between two checks for an introspection endpoint that may have moved.
REDISCOVERY_SECONDS = 5.0


class Endpoints:
    """The endpoints of one issuer.

    The metadata is fetched when an endpoint is needed that is not configured, and again when a failure
    suggests that the endpoint has moved. Until there is newer metadata, the last one is used.

    Args:
        config: The issuer.
        http: HTTP client.
        monotonic: Clock in seconds.
        sleep: Waits for a number of seconds.
        on_introspection: Called with the error that the introspection endpoint is not known, or None.
    """

    def __init__(
        self,
        config: IssuerSettings,
        http: httpx.AsyncClient,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        on_introspection: Callable[[IssuerUnavailable | None], None],
    ) -> None:
        self._config = config
        self._http = http
        self._monotonic = monotonic
        self._sleep = sleep
        self._on_introspection = on_introspection
        self._metadata: Metadata | None = None
        self._may_be_outdated = False
        self._rediscovered_at = -math.inf
        self._discovery: SingleFlight[None, Metadata] = SingleFlight()
        self._search: SingleFlight[None, None] = SingleFlight()

    @property
    def has_introspection(self) -> bool | None:
        """Whether the introspection endpoint is known; None while it may be in metadata to be fetched."""
        if self._config.introspection_endpoint is not None:
            return True
        return None if self._metadata is None else self._metadata.introspection_endpoint != ""

    async def start(self) -> None:
        """Fetch the metadata once; it is fetched again in the background until it has the endpoint."""
        first = self._discovery.begin(None, self._discover)
        self._search.begin(None, self._search_introspection)
        await wait_at_most(START_SECONDS, self._sleep, first)

    async def aclose(self) -> None:
        """Stop all background work."""
        await self._search.aclose()
        await self._discovery.aclose()

    async def introspection(self) -> str:
        """Return the introspection endpoint.

        Raises:
            IssuerUnavailable: It is not known now.
        """
        endpoint = (
            self._config.introspection_endpoint or (await self._known_metadata()).introspection_endpoint
        )
        if not endpoint:
            raise _introspection_missing()
        return endpoint

    def recheck_introspection(self) -> None:
        """Check in the background whether the introspection endpoint has moved."""
        now = self._monotonic()
        if self._config.introspection_endpoint is None and now >= self._rediscovered_at + REDISCOVERY_SECONDS:
            self._rediscovered_at = now
            self._discovery.begin(None, self._discover)

    async def fetch_keys(self) -> Mapping[str, Any]:
        """Fetch the key set.

        Raises:
            IssuerUnavailable: It cannot be fetched now.
        """
        allow_http = self._config.allow_http
        if self._config.jwks_uri is not None:
            return await get_object(self._http, self._config.jwks_uri, allow_http=allow_http, what="keys")
        uri = (await self._latest_metadata()).jwks_uri
        if not uri:
            raise IssuerUnavailable("jwks_uri_missing", detail="not in the metadata")
        try:
            return await get_object(self._http, uri, allow_http=allow_http, what="keys")
        except IssuerUnavailable:
            self._may_be_outdated = True
            raise

    def recheck_keys(self) -> None:
        """Check before the next fetch whether the key set has moved; the old one may still be served."""
        self._may_be_outdated = True

    async def _known_metadata(self) -> Metadata:
        return self._metadata or await self._discovery.run(None, self._discover)

    async def _latest_metadata(self) -> Metadata:
        if self._metadata is None or self._may_be_outdated:
            try:
                return await self._discovery.run(None, self._discover)
            except IssuerUnavailable:
                if self._metadata is None:
                    raise
        return self._metadata

    async def _discover(self) -> Metadata:
        config = self._config
        self._metadata = await discover(
            self._http, config.issuer, config.discovery_url, allow_http=config.allow_http
        )
        self._may_be_outdated = config.mode != "jwt" and not self.has_introspection
        if self._may_be_outdated:
            self._on_introspection(_introspection_missing())
        return self._metadata

    async def _search_introspection(self) -> None:
        failures = 0
        while True:
            try:
                await self._discovery.run(None, self._discover)
            except IssuerUnavailable as error:
                self._on_introspection(error)
            if self.has_introspection:
                self._on_introspection(None)
                return
            failures += 1
            await self._sleep(backoff_seconds(failures))


def _introspection_missing() -> IssuerUnavailable:
    return IssuerUnavailable("introspection_endpoint_missing", detail="not in the metadata")
