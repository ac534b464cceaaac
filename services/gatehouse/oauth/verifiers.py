"""All issuers side by side: the one that a token names, and the cache before all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import httpx
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer

from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._claims import DOTS, MAX_TOKEN_CHARS, is_b64token, split
from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._issuer import Issuer
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.observer import NoObserver, Observer
from gatehouse.oauth.principal import Principal

CACHE_SIZE = 10_000
# Whoever waits has an answer within a second, be the issuer there or not.
ANSWER_SECONDS = 0.9
# One introspection is bound a little tighter, so that it is the one to notice.
INTROSPECTION_PART = 0.9


class Verifiers:
    """Verifies the tokens of several issuers.

    A signed token goes to the issuer that its `iss` names, an opaque one to the one issuer that only
    introspects. What was verified serves again until the token ends or the revocation budget is spent.
    Many who bring one new token at once make one verification.

    Args:
        issuers: The issuers, each with its own audience, algorithms and mode.
        http: Client for discovery, keys and introspection.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        sleep: Waits for seconds of that clock.
        tracer: Makes a span when a verification goes beyond the cache.
        observer: Told of verifications and key refreshes.
        answer_seconds: How long one verification may take, with all that it asks.

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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tracer: Tracer | None = None,
        observer: Observer | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        if not issuers:
            raise ValueError("at least one issuer is required")
        self._observer = observer or NoObserver()
        self._tracer = tracer or NoOpTracer()
        self._clock = clock
        self._monotonic = monotonic
        self._answer_seconds = answer_seconds
        self._issuers = {
            config.issuer: Issuer(
                config,
                http,
                clock=clock,
                monotonic=monotonic,
                sleep=sleep,
                observer=self._observer,
                answer_seconds=answer_seconds * INTROSPECTION_PART,
            )
            for config in issuers
        }
        if len(self._issuers) != len(issuers):
            raise ValueError("two issuers have the same name")
        opaque = [issuer for issuer in self._issuers.values() if issuer.config.mode == "introspection"]
        self._opaque = opaque[0] if len(opaque) == 1 else None
        context = [part for c in issuers for part in (c.issuer, c.introspection_endpoint, c.client_id)]
        self._cache: TokenCache[Principal] = TokenCache(CACHE_SIZE, monotonic, context)
        self._flight: SingleFlight[bytes, Principal] = SingleFlight()

    @property
    def ready(self) -> bool:
        """Whether every issuer has given what verification needs."""
        return all(issuer.ready for issuer in self._issuers.values())

    async def start(self) -> None:
        """Fetches keys and metadata; an issuer that is away is tried again in the background."""
        await asyncio.gather(*(issuer.start() for issuer in self._issuers.values()))

    async def aclose(self) -> None:
        """Ends all background work."""
        await self._flight.aclose()
        await asyncio.gather(*(issuer.aclose() for issuer in self._issuers.values()))

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """Verifies one access token; see TokenVerifier.verify."""
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidToken("token_too_long")
        if not token.isascii():
            raise InvalidToken("token_malformed")
        key = self._cache.key(token)
        if online:
            # A request that is under way may have been answered before what this call must not miss.
            return await self._verify(key, token, online=True)
        cached = self._recall(key)
        if cached is not None:
            return cached
        shared = self._flight.busy(key)
        principal = await self._flight.run(key, lambda: self._verify(key, token, online=False))
        if shared:
            self._observer.verified("cache")
        return principal

    def remembered(self, token: str) -> Principal | None:
        """Returns who brings a token that was verified before; see TokenVerifier.remembered."""
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        return self._recall(self._cache.key(token))

    def _recall(self, key: bytes) -> Principal | None:
        principal = self._cache.get(key)
        if principal is None or self._clock() >= principal.expires_at:
            return None
        self._observer.verified("cache")
        return principal

    async def _verify(self, key: bytes, token: str, *, online: bool) -> Principal:
        issuer = self._issuer_of(token)
        began = self._monotonic()
        with self._tracer.start_as_current_span(
            "oauth.verify",
            kind=SpanKind.INTERNAL,
            record_exception=False,
            set_status_on_exception=False,
            attributes={"oauth.issuer": issuer.config.issuer, "oauth.mode": issuer.config.mode},
        ) as span:
            try:
                async with asyncio.timeout(self._answer_seconds):
                    principal, source = await issuer.verify(token, online=online)
            except TimeoutError:
                _mark(span, "issuer_timeout", outage=True)
                raise IssuerUnavailable("issuer_timeout") from None
            except InvalidToken as refusal:
                _mark(span, refusal.reason, outage=False)
                self._cache.discard(key)
                raise
            except IssuerUnavailable as error:
                _mark(span, error.reason, outage=True)
                raise
        self._observer.verified(source)
        # Counted from the question, not from the answer.
        spent = self._monotonic() - began
        budget = issuer.config.revocation_budget_seconds
        self._cache.put(key, principal, min(principal.expires_at - self._clock(), budget) - spent)
        return principal

    def _issuer_of(self, token: str) -> Issuer:
        if token.count(".") > DOTS or not is_b64token(token):
            raise InvalidToken("token_malformed")
        parts = split(token)
        if parts is None:
            if self._opaque is None:
                raise InvalidToken("token_malformed")
            return self._opaque
        name = parts[1].get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise InvalidToken("issuer_unknown")
        return issuer


def _mark(span: Span, reason: str, *, outage: bool) -> None:
    span.set_attribute("error.type", reason)
    if outage:  # a refused token is the caller's, and no fault of this span's
        span.set_status(Status(StatusCode.ERROR))
