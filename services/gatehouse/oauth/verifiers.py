"""All issuers side by side: the one that a token names, its way to verify, and the cache before both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
from opentelemetry.trace import NoOpTracer, SpanKind, Tracer

from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._claims import MAX_TOKEN_CHARS
from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._http import get_json
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.discovery import Metadata, discover
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.introspection import IntrospectionVerifier
from gatehouse.oauth.jwt import JwtVerifier, split
from gatehouse.oauth.keys import KeySet
from gatehouse.oauth.observer import NoObserver, Observer
from gatehouse.oauth.principal import Principal

CACHE_SIZE = 10_000
_DOTS = 2


class _Issuer:
    """One issuer at work: metadata found late, keys, signature and introspection."""

    def __init__(
        self,
        config: IssuerConfig,
        http: httpx.AsyncClient,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        observer: Observer,
    ) -> None:
        self.config = config
        self._http = http
        self._observer = observer
        self._metadata: Metadata | None = None
        self._discovery: SingleFlight[None, Metadata] = SingleFlight()
        self._asks = config.mode != "jwt"
        self._keys: KeySet | None = None
        self._signed: JwtVerifier | None = None
        if config.mode != "introspection":
            self._keys = KeySet(self._fetch_keys, config.algorithms, monotonic, observer)
            self._signed = JwtVerifier(config, self._keys, clock)
        self._asked = IntrospectionVerifier(config, self._introspection_endpoint, http, clock, monotonic)

    @property
    def ready(self) -> bool:
        if self._keys is not None:
            return self._keys.ready
        return self._metadata is not None or self.config.introspection_endpoint is not None

    async def start(self) -> None:
        if self._keys is not None:
            await self._keys.start()
        elif not self.ready:
            await asyncio.gather(self._metadata_now(), return_exceptions=True)

    async def aclose(self) -> None:
        if self._keys is not None:
            await self._keys.aclose()
        await self._asked.aclose()
        await self._discovery.aclose()

    async def verify(self, token: str, *, online: bool) -> Principal:
        """Verifies as the mode says; `online` asks the issuer whatever the mode, where it can be asked."""
        if self._signed is None:
            principal = await self._asked.verify(token, online=online)
            self._observer.verified("introspection")
            return principal
        principal = await self._signed.verify(token)
        self._observer.verified("signature")
        if not self._asks:
            if online:
                raise IssuerUnavailable("introspection_not_configured")
            return principal
        today = await self._asked.verify(token, online=online)
        self._observer.verified("introspection")
        if today.subject != principal.subject:
            raise InvalidToken("subject_mismatch")
        # Scopes, acr and auth_time are the token's own; an issuer may introspect those of the session as it
        # is now. Roles are today's.
        return replace(
            principal,
            roles=today.roles,
            client_roles=today.client_roles,
            permissions=today.permissions,
            expires_at=min(principal.expires_at, today.expires_at),
        )

    async def _metadata_now(self) -> Metadata:
        if self._metadata is None:
            self._metadata = await self._discovery.run(None, self._discover)
        return self._metadata

    async def _discover(self) -> Metadata:
        config = self.config
        return await discover(self._http, config.issuer, config.discovery_url, allow_http=config.allow_http)

    async def _introspection_endpoint(self) -> str:
        endpoint = self.config.introspection_endpoint
        if endpoint is None:
            endpoint = (await self._metadata_now()).introspection_endpoint
        if not endpoint:
            raise IssuerUnavailable("introspection_endpoint_missing")
        return endpoint

    async def _fetch_keys(self) -> Mapping[str, Any]:
        uri = self.config.jwks_uri or (await self._metadata_now()).jwks_uri
        if not uri:
            raise IssuerUnavailable("jwks_uri_missing")
        return await get_json(self._http, uri, allow_http=self.config.allow_http, what="keys")


class Verifiers:
    """Verifies the tokens of several issuers.

    A signed token goes to the issuer that its `iss` names, an opaque one to the one issuer that only
    introspects. What was verified serves again until the token ends or the revocation budget is spent.

    Args:
        issuers: The issuers, each with its own audience, algorithms and mode.
        http: Client for discovery, keys and introspection.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        tracer: Makes a span when a verification goes beyond the cache.
        observer: Told of verifications and key refreshes.

    Raises:
        ValueError: Two issuers of one name, or none at all.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerConfig],
        *,
        http: httpx.AsyncClient,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        tracer: Tracer | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not issuers:
            raise ValueError("at least one issuer is required")
        self._observer = observer or NoObserver()
        self._tracer = tracer or NoOpTracer()
        self._clock = clock
        self._issuers = {c.issuer: _Issuer(c, http, clock, monotonic, self._observer) for c in issuers}
        if len(self._issuers) != len(issuers):
            raise ValueError("two issuers have the same name")
        opaque = [i for i in self._issuers.values() if i.config.mode == "introspection"]
        self._opaque = opaque[0] if len(opaque) == 1 else None
        self._cache: TokenCache[Principal] = TokenCache(CACHE_SIZE, monotonic)

    @property
    def ready(self) -> bool:
        """Whether every issuer has given what verification needs."""
        return all(issuer.ready for issuer in self._issuers.values())

    async def start(self) -> None:
        """Fetches keys and metadata; an issuer that is away is tried again in the background."""
        await asyncio.gather(*(issuer.start() for issuer in self._issuers.values()))

    async def aclose(self) -> None:
        """Ends all background work."""
        await asyncio.gather(*(issuer.aclose() for issuer in self._issuers.values()))

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """Verifies one access token; see TokenVerifier.verify."""
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidToken("token_too_long")
        key = self._cache.key(token)
        if not online:
            cached = self._cache.get(key)
            if cached is not None:
                self._observer.verified("cache")
                return cached
        issuer = self._issuer_of(token)
        with self._tracer.start_as_current_span(
            "oauth.verify",
            kind=SpanKind.INTERNAL,
            record_exception=False,
            set_status_on_exception=False,
            attributes={"oauth.issuer": issuer.config.issuer, "oauth.mode": issuer.config.mode},
        ):
            try:
                principal = await issuer.verify(token, online=online)
            except InvalidToken:
                self._cache.discard(key)
                raise
        self._cache.put(key, principal, min(principal.expires_at - self._clock(), issuer.config.budget))
        return principal

    def _issuer_of(self, token: str) -> _Issuer:
        if token.count(".") > _DOTS:
            raise InvalidToken("token_malformed")
        parts = split(token)
        if parts is None:
            if self._opaque is None:
                raise InvalidToken("token_malformed")
            return self._opaque
        issuer = self._issuers.get(str(parts[1].get("iss")))
        if issuer is None:
            raise InvalidToken("issuer_unknown")
        return issuer
