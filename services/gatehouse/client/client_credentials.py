"""The client's side: token, introspection and revocation requests, and a source of client credentials."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from gatehouse.oauth import SingleFlight, backoff_seconds, is_b64token
from gatehouse.oauth._http import Answer, post_form
from gatehouse.oauth.discovery import discover
from gatehouse.oauth.errors import IssuerUnavailable, OAuthError, TokenRequestFailed

REFRESH_AT = 0.8
JITTER = 0.05
DEFAULT_LIFETIME_SECONDS = 60.0
MAX_LIFETIME_SECONDS = 24 * 3600.0
MAX_RETRY_AFTER_SECONDS = 300.0
SETTLED_SECONDS = 60.0

# RFC 6749 sections 4.1.2.1 and 5.2, RFC 7009, RFC 8628, RFC 8693, RFC 9449, and what Keycloak adds. Nothing
# else of an answer reaches an exception.
_ERRORS = frozenset(
    {
        "access_denied",
        "authorization_pending",
        "expired_token",
        "insufficient_scope",
        "invalid_client",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "invalid_token",
        "not_allowed",
        "server_error",
        "slow_down",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_response_type",
        "unsupported_token_type",
        "use_dpop_nonce",
    }
)


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """An answer of a token endpoint (RFC 6749 section 5.1); lifetimes in seconds."""

    access_token: str = field(repr=False)
    token_type: str
    expires_in: float
    scope: str = ""
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


async def request_token(
    http: httpx.AsyncClient,
    token_endpoint: str,
    data: Mapping[str, str],
    auth: tuple[str, str] | None = None,
    *,
    allow_http: bool = False,
    clock: Callable[[], float] = time.time,
) -> TokenResponse:
    """Asks a token endpoint for tokens (RFC 6749 section 3.2).

    Args:
        http: Client to ask with.
        token_endpoint: Where.
        data: Parameters of the grant, `grant_type` among them; `client_id` too for a public client.
        auth: Client id and secret; None for a public client.
        allow_http: Whether plain HTTP beyond loopback is accepted.
        clock: Seconds since the epoch, for a Retry-After that is a date.

    Raises:
        TokenRequestFailed: The endpoint refused (RFC 6749 section 5.2).
        IssuerUnavailable: It gave no usable answer.
    """
    answer = await _ask(http, token_endpoint, data, auth, allow_http, clock, "token_endpoint")
    body = answer.body or {}
    token, kind = body.get("access_token"), body.get("token_type")
    # Only b64token can go into a header; what cannot would end up in the text of somebody's error.
    if not isinstance(token, str) or not is_b64token(token):
        raise TokenRequestFailed("malformed_answer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenRequestFailed("malformed_answer")
    refresh, identity, scope = body.get("refresh_token"), body.get("id_token"), body.get("scope")
    return TokenResponse(
        access_token=token,
        token_type="Bearer",  # noqa: S106 - a type, no secret
        expires_in=_lifetime(body.get("expires_in")),
        scope=scope if isinstance(scope, str) else "",
        refresh_token=refresh if isinstance(refresh, str) else None,
        id_token=identity if isinstance(identity, str) else None,
    )


async def introspect(
    http: httpx.AsyncClient,
    endpoint: str,
    client_id: str,
    client_secret: str,
    token: str,
    *,
    allow_http: bool = False,
) -> Mapping[str, Any]:
    """Asks an introspection endpoint about `token` and returns its answer (RFC 7662 section 2.2).

    Raises:
        TokenRequestFailed: The endpoint refused.
        IssuerUnavailable: It gave no usable answer.
    """
    auth = (client_id, client_secret)
    answer = await _ask(http, endpoint, {"token": token}, auth, allow_http, time.time, "introspection")
    if answer.body is None:
        raise TokenRequestFailed("malformed_answer")
    return answer.body


async def revoke(
    http: httpx.AsyncClient,
    endpoint: str,
    client_id: str,
    client_secret: str | None,
    token: str,
    *,
    allow_http: bool = False,
) -> None:
    """Revokes `token` (RFC 7009 section 2); `client_secret` is None for a public client.

    Raises:
        TokenRequestFailed: The endpoint refused, be it in an answer with status 200.
        IssuerUnavailable: It gave no usable answer.
    """
    data, auth = {"token": token}, None
    if client_secret is None:
        data["client_id"] = client_id
    else:
        auth = (client_id, client_secret)
    answer = await _ask(http, endpoint, data, auth, allow_http, time.time, "revocation")
    if answer.body is not None and "error" in answer.body:
        raise _failure(answer)


async def _ask(
    http: httpx.AsyncClient,
    endpoint: str,
    data: Mapping[str, str],
    auth: tuple[str, str] | None,
    allow_http: bool,  # noqa: FBT001 - private
    clock: Callable[[], float],
    what: str,
) -> Answer:
    answer = await post_form(http, endpoint, data, auth, allow_http=allow_http, what=what)
    if answer.away:
        raise IssuerUnavailable(f"{what}_busy", _retry_after_seconds(answer.retry_after, clock))
    if not answer.ok:
        raise _failure(answer)
    return answer


def _failure(answer: Answer) -> TokenRequestFailed:
    error = (answer.body or {}).get("error")
    return TokenRequestFailed(error if isinstance(error, str) and error in _ERRORS else "malformed_answer")


def _lifetime(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return DEFAULT_LIFETIME_SECONDS
    return float(min(value, MAX_LIFETIME_SECONDS))


def _retry_after_seconds(value: str, clock: Callable[[], float]) -> float | None:
    """Reads Retry-After (RFC 9110 section 10.2.3), seconds or a date; None when it is neither."""
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - clock()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


class ClientCredentials:
    """A TokenSource that gets its own token (RFC 6749 section 4.4).

    The token is renewed in the background at about four fifths of its life; until then, and while the
    endpoint is away, the old one serves as long as it is valid. Many who ask at once make one request.
    After a failure the endpoint is left alone for a while, for as long as it says where it says so. When
    one fresh token after the other is refused, they are kept longer and longer, at most 30 s: yet
    another would be no better.

    Args:
        http: Client to ask with.
        token_endpoint: Where; discovered from `issuer` when None.
        issuer: The issuer.
        discovery_url: Where its metadata is reached, when not below `issuer`.
        client_id: The client.
        client_secret: Its secret.
        scope: Scopes to ask for, separated by spaces.
        allow_http: Whether plain HTTP beyond loopback is accepted.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        rng: Source of the jitter.
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
        self._made_at = self._renew_at = self._ends_at = -math.inf
        self._refused = 0
        self._kept_seconds = 0.0
        self._failures = 0
        self._failure: OAuthError | None = None
        self._retry_at = -math.inf
        self._flight: SingleFlight[None, str] = SingleFlight()

    async def token(self) -> str:
        """Returns an access token that is valid now; see TokenSource.token."""
        now = self._monotonic()
        if now < self._renew_at:
            return self._token
        resting = now < self._retry_at and not self._flight.busy(None)
        if now < self._ends_at:
            if not resting:
                self._flight.begin(None, self._renew)
            return self._token
        if resting and self._failure is not None:
            raise self._failure.with_traceback(None)
        return await self._flight.run(None, self._renew)

    def invalidate(self, token: str) -> None:
        """Drops `token` when it is the one that is held, and has been held long enough to say so."""
        age = self._monotonic() - self._made_at
        if not token or token != self._token or age < self._kept_seconds:
            return
        self._token = ""
        self._refused = 1 if age >= SETTLED_SECONDS else self._refused + 1
        self._kept_seconds = backoff_seconds(self._refused)
        self._renew_at = self._ends_at = -math.inf

    async def aclose(self) -> None:
        """Ends a renewal that is under way."""
        await self._flight.aclose()

    async def _renew(self) -> str:
        asked_at = self._monotonic()
        try:
            answer = await self._request()
        except OAuthError as error:
            self._failures += 1
            rest = backoff_seconds(self._failures) * self._rng.uniform(0.5, 1.0)
            if isinstance(error, IssuerUnavailable) and error.retry_after is not None:
                rest = max(rest, error.retry_after)
            self._failure = error
            self._retry_at = self._monotonic() + rest
            raise
        self._failures = 0
        self._failure = None
        self._token = answer.access_token
        part = REFRESH_AT + self._rng.uniform(-JITTER, JITTER)
        self._made_at = asked_at
        self._renew_at = asked_at + answer.expires_in * part
        self._ends_at = asked_at + answer.expires_in
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
