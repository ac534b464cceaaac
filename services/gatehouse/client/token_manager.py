"""A token source that caches the token of a grant: renewal, backoff, rejected tokens."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, OAuthError, SingleFlight, TokenRequestFailed, backoff_seconds

RENEW_AHEAD = 0.2
RENEW_AHEAD_SECONDS = 30.0
JITTER = 0.05
SETTLED_SECONDS = 60.0


class Grant(Protocol):
    """Asks an issuer for a token. It keeps none."""

    async def request(self) -> TokenResponse:
        """Request a token.

        Raises:
            TokenRequestFailed: The issuer refused.
            IssuerUnavailable: The issuer gave no usable response.
            OAuthError: There is nothing to ask with, such as no login.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    """A token and its times, in seconds of the monotonic clock."""

    token: str = field(default="", repr=False)
    requested_at: float = -math.inf
    renew_at: float = -math.inf
    expires_at: float = -math.inf


class TokenManager:
    """A CachingTokenSource that caches the token of a grant.

    The token is renewed in the background at about 80 percent of its lifetime, or 30 seconds before its end
    if that is earlier. Until then, and while the issuer is unavailable, the old token is used as long as it
    is valid. Concurrent callers share one request. After a failure the next request waits with exponential
    backoff, or as long as Retry-After says. If services reject one new token after another, each is kept
    longer than the one before, at most 30 s, because the next one would not be better.

    Args:
        grant: Requests the tokens.
        on_response: Called after each request with its error, or None.
        monotonic: Seconds of a monotonic clock.
        rng: Random numbers for the jitter.
    """

    def __init__(
        self,
        grant: Grant,
        *,
        on_response: Callable[[OAuthError | None], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._grant = grant
        self._on_response = on_response
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._kept = _Kept()
        self._rejected = 0
        self._keep_seconds = 0.0
        self._failures = 0
        self._failure: OAuthError | None = None
        self._retry_at = -math.inf
        self._flight: SingleFlight[None, str] = SingleFlight()

    def current(self) -> str | None:
        """See CachingTokenSource.current."""
        kept = self._kept  # read once: another thread may replace it
        return kept.token if self._monotonic() < kept.renew_at else None

    async def token(self) -> str:
        """See TokenSource.token."""
        now, kept = self._monotonic(), self._kept
        if now < kept.renew_at:
            return kept.token
        waiting = now < self._retry_at and not self._flight.busy(None)
        if now < kept.expires_at:
            if not waiting:
                self._flight.begin(None, self._renew)
            return kept.token
        if waiting and self._failure is not None:
            raise self._failure.with_traceback(None)
        return await self._flight.run(None, self._renew)

    def invalidate(self, token: str) -> None:
        """Drop `token` if it is the current one and was kept long enough; see TokenSource.invalidate."""
        age = self._monotonic() - self._kept.requested_at
        if not token or token != self._kept.token or age < self._keep_seconds:
            return
        self._kept = _Kept()
        self._rejected = 1 if age >= SETTLED_SECONDS else self._rejected + 1
        self._keep_seconds = backoff_seconds(self._rejected)

    async def aclose(self) -> None:
        """Cancel a renewal in progress."""
        await self._flight.aclose()

    async def _renew(self) -> str:
        requested_at = self._monotonic()
        try:
            response = await self._grant.request()
        except (IssuerUnavailable, TokenRequestFailed) as error:
            self._failures += 1
            delay = backoff_seconds(self._failures) * self._rng.uniform(0.5, 1.0)
            if isinstance(error, IssuerUnavailable) and error.retry_after is not None:
                delay = max(delay, error.retry_after)
            self._failure = error
            self._retry_at = self._monotonic() + delay
            self._on_response(error)
            raise
        self._on_response(None)
        self._failures = 0
        self._failure = None
        lifetime = response.expires_in
        ahead = max(lifetime * RENEW_AHEAD, min(RENEW_AHEAD_SECONDS + lifetime * JITTER, lifetime / 2))
        expires_at = requested_at + lifetime
        renew_at = expires_at - ahead + lifetime * self._rng.uniform(-JITTER, JITTER)
        self._kept = _Kept(response.access_token, requested_at, renew_at, expires_at)
        return response.access_token
