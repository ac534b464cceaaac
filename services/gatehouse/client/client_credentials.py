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
        client_secret: Client secret, or what reads it for each request.
        scope: Scopes to request, separated by spaces.
        audience: `audience` to request, which some issuers need.
        resource: Values of `resource` (RFC 8707) to request, separated by spaces.
        allow_http: Allow plain HTTP to hosts other than loopback.
        on_answer: Called after each request with its error, or None.
        clock: Seconds since the epoch.
        monotonic: Seconds of a monotonic clock.
        rng: Random numbers for the jitter.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        client_id: str,
        client_secret: str | Callable[[], str],
        scope: str = "",
        audience: str | None = None,
        resource: str = "",
        token_endpoint: str | None = None,
        issuer: str = "",
        discovery_url: str | None = None,
        allow_http: bool = False,
        on_answer: Callable[[OAuthError | None], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._http = http
        self._client_id = client_id
        self._secret = client_secret
        form: dict[str, str | list[str]] = {"grant_type": "client_credentials"}
        if scope:
            form["scope"] = scope
        if audience:
            form["audience"] = audience
        if resource:
            form["resource"] = resource.split()
        self._form = form
        self._configured_endpoint = token_endpoint
        self._discovered_endpoint = ""
        self._on_answer = on_answer
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
            self._on_answer(error)
            raise
        self._on_answer(None)
        self._failures = 0
        self._failure = None
        self._token = response.access_token
        self._requested_at = requested_at
        self._expires_at = requested_at + response.expires_in
        self._renew_at = requested_at + response.expires_in * (RENEW_AT + self._rng.uniform(-JITTER, JITTER))
        return self._token

    async def _request(self) -> TokenResponse:
        endpoint = self._configured_endpoint or await self._discover()
        secret = self._secret if isinstance(self._secret, str) else self._secret()
        auth = (self._client_id, secret)
        return await request_token(
            self._http, endpoint, self._form, auth, allow_http=self._allow_http, clock=self._clock
        )

    async def _discover(self) -> str:
        """Return the token endpoint. After a failure it may have moved, so it is discovered again."""
        if self._discovered_endpoint and not self._failures:
            return self._discovered_endpoint
        try:
            metadata = await discover(
                self._http, self._issuer, self._discovery_url, allow_http=self._allow_http
            )
        except IssuerUnavailable:
            if not self._discovered_endpoint:
                raise
        else:
            self._discovered_endpoint = metadata.token_endpoint or self._discovered_endpoint
        if not self._discovered_endpoint:
            raise IssuerUnavailable("token_endpoint_missing", detail="not in the metadata")
        return self._discovered_endpoint
