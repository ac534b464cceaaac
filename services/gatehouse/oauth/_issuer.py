"""One issuer at work: metadata that may come late, keys, signature and introspection."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._http import get_object
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.discovery import Metadata, discover
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.introspection import ENDPOINT_GONE, IntrospectionVerifier
from gatehouse.oauth.jwt import JwtVerifier
from gatehouse.oauth.keys import START_SECONDS, KeySet, backoff_seconds
from gatehouse.oauth.observer import Observer, Source
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read, provider

# At least this long between two looks for an introspection endpoint that may have moved.
REDISCOVERY_SECONDS = 5.0


class Issuer:
    """Verifies the tokens of one issuer as its mode says.

    Args:
        config: The issuer.
        http: Client to ask with.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        sleep: Waits for seconds of that clock.
        observer: Told of each key fetch.
        answer_seconds: How long an introspection may take.
    """

    def __init__(
        self,
        config: IssuerConfig,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        observer: Observer,
        answer_seconds: float,
    ) -> None:
        self.config = config
        self._http = http
        self._monotonic = monotonic
        self._sleep = sleep
        self._provider = provider(config.provider)
        self._metadata: Metadata | None = None
        self._metadata_doubtful = False
        self._rediscovered_at = -math.inf
        self._discovery: SingleFlight[None, Metadata] = SingleFlight()
        self._discoverer: asyncio.Task[None] | None = None
        self._keys: KeySet | None = None
        self._signed: JwtVerifier | None = None
        self._asked: IntrospectionVerifier | None = None
        if config.mode != "introspection":
            self._keys = KeySet(self._fetch_keys, config.algorithms, monotonic, sleep, observer)
            self._signed = JwtVerifier(config, self._keys, clock)
        if config.mode != "jwt":
            self._asked = IntrospectionVerifier(
                config, self._introspection_endpoint, http, clock, monotonic, sleep, answer_seconds
            )

    @property
    def ready(self) -> bool:
        """Whether there is what verification needs: keys, or else the introspection endpoint."""
        if self._keys is not None:
            return self._keys.ready
        return self._metadata is not None or self.config.introspection_endpoint is not None

    async def start(self) -> None:
        """Makes the first attempt; later ones run in the background."""
        if self._keys is not None:
            await self._keys.start()
        elif not self.ready:
            first = self._discovery.begin(None, self._discover)
            self._discoverer = asyncio.create_task(self._discover_until_known())
            await asyncio.wait((first,), timeout=START_SECONDS)

    async def aclose(self) -> None:
        """Ends all background work."""
        if self._keys is not None:
            await self._keys.aclose()
        if self._asked is not None:
            await self._asked.aclose()
        if self._discoverer is not None:
            self._discoverer.cancel()
            await asyncio.gather(self._discoverer, return_exceptions=True)
        await self._discovery.aclose()

    async def verify(self, token: str, *, online: bool) -> tuple[Principal, Source]:
        """Verifies one token and says by what.

        Args:
            token: The token.
            online: Ask the issuer now, whatever the mode.

        Raises:
            InvalidToken: It is not valid here.
            IssuerUnavailable: Nothing can be said now, or `online` of an issuer that is not introspected.
        """
        signed = None if self._signed is None else await self._signed.verify(token)
        if self._asked is None:
            assert signed is not None  # noqa: S101 - every mode has one of the two
            if online:
                raise IssuerUnavailable("introspection_not_configured")
            return signed, "signature"
        try:
            asked = await self._asked.verify(token, online=online)
        except IssuerUnavailable as error:
            if error.reason == ENDPOINT_GONE and self.config.introspection_endpoint is None:
                self._rediscover()
            raise
        return (asked if signed is None else self._joined(signed, asked)), "introspection"

    def _rediscover(self) -> None:
        """Look in the background whether the introspection endpoint has moved."""
        now = self._monotonic()
        if now >= self._rediscovered_at + REDISCOVERY_SECONDS:
            self._rediscovered_at = now
            self._discovery.begin(None, self._discover)

    def _joined(self, signed: Principal, asked: Principal) -> Principal:
        if asked.subject != signed.subject:
            raise InvalidToken("subject_mismatch")
        # What the issuer tells beyond the token, such as a name, is added; what the token says, it says.
        claims = _read.frozen(VerifiedClaims({**asked.claims, **signed.claims}))
        signed = replace(signed, expires_at=min(signed.expires_at, asked.expires_at), claims=claims)
        if not self._provider.tells_roles(asked.claims):
            return signed
        # Roles are today's. Scopes, acr and auth_time stay the token's own, since an issuer may introspect
        # those of the session as it is by now.
        return replace(
            signed,
            roles=asked.roles,
            client_roles=asked.client_roles,
            permissions=asked.permissions,
        )

    async def _known_metadata(self) -> Metadata:
        return self._metadata or await self._discovery.run(None, self._discover)

    async def _discover(self) -> Metadata:
        config = self.config
        self._metadata = await discover(
            self._http,
            config.issuer,
            config.discovery_url,
            allow_http=config.allow_http,
            urls=self._provider.metadata_urls(config.issuer),
        )
        self._metadata_doubtful = False
        return self._metadata

    async def _discover_until_known(self) -> None:
        failures = 0
        while True:
            try:
                await self._known_metadata()
            except IssuerUnavailable:
                failures += 1
                await self._sleep(backoff_seconds(failures))
            else:
                return

    async def _introspection_endpoint(self) -> str:
        endpoint = self.config.introspection_endpoint or (await self._known_metadata()).introspection_endpoint
        if not endpoint:
            raise IssuerUnavailable("introspection_endpoint_missing")
        return endpoint

    async def _fetch_keys(self) -> Mapping[str, Any]:
        allow_http = self.config.allow_http
        if self.config.jwks_uri is not None:
            return await get_object(self._http, self.config.jwks_uri, allow_http=allow_http, what="keys")
        if self._metadata_doubtful:
            # The keys may have moved since. What was known serves on while there is nothing newer.
            with contextlib.suppress(IssuerUnavailable):
                await self._discovery.run(None, self._discover)
        uri = (await self._known_metadata()).jwks_uri
        if not uri:
            raise IssuerUnavailable("jwks_uri_missing")
        try:
            return await get_object(self._http, uri, allow_http=allow_http, what="keys")
        except IssuerUnavailable:
            self._metadata_doubtful = True
            raise
