"""A token source for the client credentials grant (RFC 6749 section 4.4)."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import httpx

from gatehouse.client.token_endpoint import TokenResponse, request_token
from gatehouse.oauth import IssuerUnavailable, OAuthError, SingleFlight, backoff_seconds, discover

RENEW_AT = 0.8
JITTER = 0.05
SETTLED_SECONDS = 60.0


class ClientCredentials:
    """A TokenSource that requests the token of a client.

    The token is renewed in the background at about 80 percent of its lifetime. Until then, and while the
    token endpoint is unavailable, the old token is used as long as it is valid. Concurrent callers share one
    request. After a failure the next request waits with exponential backoff, or as long as Retry-After says.
    If services reject one new token after another, each is kept longer than the one before, at most 30 s,
    because the next one would not be better.

    Args:
        http: HTTP client.
        token_endpoint: URL of the token endpoint; None discovers it from `issuer`.
        issuer: The issuer.
        discovery_url: URL of the discovery document, if not under `issuer`.
        client_id: Client id.
        client_secret: Client secret.
        scope: Scopes to request, separated by spaces.
        allow_http: Allow plain HTTP to hosts other than loopback.
        clock: Seconds since the epoch.
        monotonic: Seconds of a monotonic clock.
        rng: Random numbers for the jitter.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        client_id: str,
        client_secret: str,
        scope: str = "",
        token_endpoint: str | None = None,
        issuer: str = "",
        discovery_url: str | None = None,
        allow_http: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._http = http
        self._auth = (client_id, client_secret)
        self._scope = scope
        self._endpoint = token_endpoint
        self._issuer = issuer
        self._discovery_url = discovery_url
        self._allow_http = allow_http
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._token = ""
        self._requested_at = self._renew_at = self._expires_at = -math.inf
        self._rejected = 0
        self._keep_seconds = 0.0
        self._failures = 0
        self._failure: OAuthError | None = None
        self._retry_at = -math.inf
        self._flight: SingleFlight[None, str] = SingleFlight()

    async def token(self) -> str:
        """See TokenSource.token."""
        now = self._monotonic()
        if now < self._renew_at:
            return self._token
        waiting = now < self._retry_at and not self._flight.busy(None)
        if now < self._expires_at:
            if not waiting:
                self._flight.begin(None, self._renew)
            return self._token
        if waiting and self._failure is not None:
            raise self._failure.with_traceback(None)
        return await self._flight.run(None, self._renew)

    def invalidate(self, token: str) -> None:
        """Drop `token` if it is the current one and was kept long enough; see TokenSource.invalidate."""
        age = self._monotonic() - self._requested_at
        if not token or token != self._token or age < self._keep_seconds:
            return
        self._token = ""
        self._rejected = 1 if age >= SETTLED_SECONDS else self._rejected + 1
        self._keep_seconds = backoff_seconds(self._rejected)
        self._renew_at = self._expires_at = -math.inf

    async def aclose(self) -> None:
        """Cancel a renewal in progress."""
        await self._flight.aclose()

    async def _renew(self) -> str:
        requested_at = self._monotonic()
        try:
            response = await self._request()
        except OAuthError as error:
            self._failures += 1
            delay = backoff_seconds(self._failures) * self._rng.uniform(0.5, 1.0)
            if isinstance(error, IssuerUnavailable) and error.retry_after is not None:
                delay = max(delay, error.retry_after)
            self._failure = error
            self._retry_at = self._monotonic() + delay
            raise
        self._failures = 0
        self._failure = None
        self._token = response.access_token
        self._requested_at = requested_at
        self._expires_at = requested_at + response.expires_in
        self._renew_at = requested_at + response.expires_in * (RENEW_AT + self._rng.uniform(-JITTER, JITTER))
        return self._token

    async def _request(self) -> TokenResponse:
        if self._endpoint is None:
            metadata = await discover(
                self._http, self._issuer, self._discovery_url, allow_http=self._allow_http
            )
            if not metadata.token_endpoint:
                raise IssuerUnavailable("token_endpoint_missing")
            self._endpoint = metadata.token_endpoint
        data = {"grant_type": "client_credentials"}
        if self._scope:
            data["scope"] = self._scope
        return await request_token(
            self._http, self._endpoint, data, self._auth, allow_http=self._allow_http, clock=self._clock
        )
