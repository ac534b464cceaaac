"""Verification of the tokens of several issuers, with one cache in front of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode, Tracer

from gatehouse.oauth._cache import TokenCache, TokenHasher
from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._issuer_verifier import IssuerVerifier
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable, Refusal
from gatehouse.oauth.observer import NoObserver, Observer
from gatehouse.oauth.presented_token import PresentedToken
from gatehouse.oauth.principal import Principal
from gatehouse.oauth.verifier import Precheck, no_precheck
from gatehouse.settings import TENANT, IssuerSettings

CACHE_SIZE = 10_000
CACHE_BYTES = 64 * 1024 * 1024


class MultiIssuerVerifier:
    """Verifies the tokens of several issuers.

    A signed token is verified by the issuer in its `iss`, which may contain a tenant, and an opaque token by
    the one issuer in mode `introspection`. A verified token is cached until it expires, for at most the
    revocation budget. Concurrent calls with the same new token share one verification.

    Args:
        issuers: The issuers, each with its own audience, algorithms and mode.
        http_for: Returns the HTTP client for requests to an issuer.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        sleep: Waits for a number of seconds.
        tracer: Creates a span for each verification that is not in the cache.
        observer: Notified of verifications and of requests to issuers.

    Raises:
        ValueError: Two issuers have the same URL, or there is none.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerSettings],
        *,
        http_for: Callable[[IssuerSettings], httpx.AsyncClient],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tracer: Tracer | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not issuers:
            raise ValueError("at least one issuer is required")
        self._observer = observer or NoObserver()
        self._tracer = tracer or NoOpTracer()
        self._clock = clock
        self._monotonic = monotonic
        self._issuers = {
            config.issuer: IssuerVerifier(
                config,
                http_for(config),
                clock=clock,
                monotonic=monotonic,
                sleep=sleep,
                observer=self._observer,
            )
            for config in issuers
        }
        if len(self._issuers) != len(issuers):
            raise ValueError("two issuers have the same URL")
        self._templates = [issuer for name, issuer in self._issuers.items() if TENANT in name]
        opaque = [issuer for issuer in self._issuers.values() if issuer.config.mode == "introspection"]
        self._opaque = opaque[0] if len(opaque) == 1 else None
        self._hasher = TokenHasher()
        self._cache: TokenCache[Principal] = TokenCache(CACHE_SIZE, monotonic, CACHE_BYTES)
        self._flight: SingleFlight[bytes, Principal] = SingleFlight()

    @property
    def ready(self) -> bool:
        """Whether the tokens of at least one issuer can be verified."""
        return any(issuer.ready for issuer in self._issuers.values())

    async def start(self) -> None:
        """Fetch keys and metadata; requests to an unavailable issuer are retried in the background."""
        await asyncio.gather(*(issuer.start() for issuer in self._issuers.values()))

    async def aclose(self) -> None:
        """Stop all background work."""
        await self._flight.aclose()
        await asyncio.gather(*(issuer.aclose() for issuer in self._issuers.values()))

    def settings_for(self, token: PresentedToken) -> IssuerSettings:
        """Return the settings of the issuer that is asked about a token.

        Raises:
            InvalidToken: There is none.
        """
        return self._issuer_of(token).config

    async def verify(
        self,
        token: PresentedToken,
        *,
        online: bool = False,
        precheck: Precheck = no_precheck,
        source: str = "",
    ) -> Principal:
        """Verify an access token; see TokenVerifier.verify."""
        token_hash = self._hasher.hash(token.value)
        cached = self._cache.get(token_hash)
        if cached is not None and self._clock() < cached.expires_at:
            if not online:
                self._observer.verified("cache")
                return cached
            precheck(cached)
        issuer = self._issuer_of(token)
        with self._recorded(issuer, token_hash):
            try:
                async with asyncio.timeout(issuer.config.timeout_seconds):
                    return await self._verify(
                        issuer, token, token_hash, online=online, precheck=precheck, source=source
                    )
            except TimeoutError:
                raise IssuerUnavailable("issuer_timeout") from None
            finally:
                token.forget_jws()

    async def _verify(
        self,
        issuer: IssuerVerifier,
        token: PresentedToken,
        token_hash: bytes,
        *,
        online: bool,
        precheck: Precheck,
        source: str,
    ) -> Principal:
        shared = not online and self._flight.busy(token_hash)
        # The signature has been verified if another call with this token is waiting for the issuer.
        signed = None if shared else await issuer.verify_signature(token)
        if signed is not None:
            precheck(signed)
        if online or issuer.config.mode == "jwt":
            # The response to a request in progress may be older than this call, so it is not shared.
            return await self._confirm(issuer, token, token_hash, signed, online=online, source=source)
        principal = await self._flight.run(
            token_hash, lambda: self._confirm(issuer, token, token_hash, signed, online=False, source=source)
        )
        if shared:
            self._observer.verified("cache")
        return principal

    async def _confirm(
        self,
        issuer: IssuerVerifier,
        token: PresentedToken,
        token_hash: bytes,
        signed: Principal | None,
        *,
        online: bool,
        source: str,
    ) -> Principal:
        started = self._monotonic()
        principal, method = await issuer.confirm(token, token_hash, signed, online=online, source=source)
        self._observer.verified(method)
        # The budget counts from the request, not from the response; expiry is checked at each use.
        elapsed = self._monotonic() - started
        seconds = issuer.config.revocation_budget_seconds - elapsed
        self._cache.put(token_hash, principal, seconds, principal.size())
        return principal

    @contextmanager
    def _recorded(self, issuer: IssuerVerifier, token_hash: bytes) -> Iterator[None]:
        """Record a verification in a span, and forget a token that turns out to be invalid."""
        with self._tracer.start_as_current_span(
            "oauth.verify",
            kind=SpanKind.INTERNAL,
            record_exception=False,
            set_status_on_exception=False,
            attributes={"oauth.issuer": issuer.config.issuer, "oauth.mode": issuer.config.mode},
        ) as span:
            try:
                yield
            except Refusal as refusal:
                # A refusal is not an error of the span.
                span.set_attribute("error.type", refusal.reason)
                if isinstance(refusal, InvalidToken):
                    self._cache.discard(token_hash)
                raise
            except IssuerUnavailable as error:
                span.set_attribute("error.type", error.reason)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def _issuer_of(self, token: PresentedToken) -> IssuerVerifier:
        if token.jws is None:
            if self._opaque is None:
                raise InvalidToken("token_malformed")
            return self._opaque
        claims = token.jws.claims
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        issuer = issuer or next((issuer for issuer in self._templates if issuer.issues(claims)), None)
        if issuer is None:
            raise InvalidToken("issuer_unknown")
        return issuer
