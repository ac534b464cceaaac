"""The client's side: token, introspection and revocation requests, and a source of client credentials."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import httpx

from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._http import require_safe_url, send_json
from gatehouse.oauth.discovery import discover
from gatehouse.oauth.errors import IssuerUnavailable, TokenRequestFailed

REFRESH_AT = 0.8
JITTER = 0.05
DEFAULT_LIFETIME_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """An answer of a token endpoint (RFC 6749 section 5.1); lifetimes in seconds."""

    access_token: str = field(repr=False)
    token_type: str
    expires_in: float
    scope: str = ""
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


async def _post(
    http: httpx.AsyncClient,
    endpoint: str,
    data: Mapping[str, str],
    *,
    client_id: str,
    client_secret: str | None,
    allow_http: bool,
    what: str,
) -> tuple[int, Mapping[str, Any]]:
    require_safe_url(endpoint, allow_http=allow_http)
    form = dict(data)
    auth: httpx.BasicAuth | None = None
    if client_secret is None:
        form["client_id"] = client_id
    else:
        # RFC 6749 section 2.3.1: both are form-urlencoded before they become a Basic credential.
        auth = httpx.BasicAuth(quote_plus(client_id), quote_plus(client_secret))
    request = http.build_request("POST", endpoint, data=form, headers={"accept": "application/json"})
    if auth is not None:
        request = next(auth.auth_flow(request))
    return await send_json(http, request, allow_http=allow_http, what=what)


def _failure(answer: Mapping[str, Any]) -> TokenRequestFailed:
    error = answer.get("error")
    known = isinstance(error, str) and error.isascii() and error.replace("_", "").isalnum()
    return TokenRequestFailed(str(error)[:64] if known else "malformed_answer")


async def request_token(
    http: httpx.AsyncClient,
    token_endpoint: str,
    data: Mapping[str, str],
    *,
    client_id: str,
    client_secret: str | None = None,
    allow_http: bool = False,
) -> TokenResponse:
    """Asks a token endpoint for tokens (RFC 6749 section 3.2).

    Args:
        http: Client to ask with.
        token_endpoint: Where.
        data: Parameters of the grant, `grant_type` among them.
        client_id: The client.
        client_secret: Its secret; None for a public client.
        allow_http: Whether plain HTTP beyond loopback is accepted.

    Raises:
        TokenRequestFailed: The endpoint refused (RFC 6749 section 5.2).
        IssuerUnavailable: It gave no usable answer.
    """
    status, answer = await _post(
        http,
        token_endpoint,
        data,
        client_id=client_id,
        client_secret=client_secret,
        allow_http=allow_http,
        what="token_endpoint",
    )
    if status == httpx.codes.TOO_MANY_REQUESTS:
        raise IssuerUnavailable("token_endpoint_busy")
    if status != httpx.codes.OK:
        raise _failure(answer)
    token, kind, lifetime = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
    if not isinstance(token, str) or not token or not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenRequestFailed("malformed_answer")
    usable = isinstance(lifetime, int | float) and not isinstance(lifetime, bool) and lifetime > 0
    refresh, identity, scope = answer.get("refresh_token"), answer.get("id_token"), answer.get("scope")
    return TokenResponse(
        access_token=token,
        token_type="Bearer",  # noqa: S106 - a type, no secret
        expires_in=float(lifetime) if usable and lifetime is not None else DEFAULT_LIFETIME_SECONDS,
        scope=scope if isinstance(scope, str) else "",
        refresh_token=refresh if isinstance(refresh, str) else None,
        id_token=identity if isinstance(identity, str) else None,
    )


async def introspect(
    http: httpx.AsyncClient,
    endpoint: str,
    token: str,
    *,
    client_id: str,
    client_secret: str,
    allow_http: bool = False,
) -> Mapping[str, Any]:
    """Asks an introspection endpoint about `token` and returns its answer (RFC 7662 section 2.2).

    Raises:
        TokenRequestFailed: The endpoint refused.
        IssuerUnavailable: It gave no usable answer.
    """
    status, answer = await _post(
        http,
        endpoint,
        {"token": token},
        client_id=client_id,
        client_secret=client_secret,
        allow_http=allow_http,
        what="introspection",
    )
    if status != httpx.codes.OK:
        raise _failure(answer)
    return answer


async def revoke(
    http: httpx.AsyncClient,
    endpoint: str,
    token: str,
    *,
    client_id: str,
    client_secret: str | None = None,
    allow_http: bool = False,
) -> None:
    """Revokes `token` (RFC 7009 section 2).

    Raises:
        TokenRequestFailed: The endpoint refused.
        IssuerUnavailable: It gave no usable answer.
    """
    status, answer = await _post(
        http,
        endpoint,
        {"token": token},
        client_id=client_id,
        client_secret=client_secret,
        allow_http=allow_http,
        what="revocation",
    )
    if status != httpx.codes.OK or "error" in answer:
        raise _failure(answer)


class ClientCredentials:
    """A TokenSource that gets its own token (RFC 6749 section 4.4).

    The token is renewed in the background at about four fifths of its life; until then, and while the
    endpoint is away, the old one serves as long as it is valid. Many who ask at once make one request.

    Args:
        http: Client to ask with.
        client_id: The client.
        client_secret: Its secret.
        scope: Scopes to ask for, separated by spaces.
        token_endpoint: Where; discovered from `issuer` when None.
        issuer: The issuer.
        discovery_url: Where its metadata is reached, when not below `issuer`.
        allow_http: Whether plain HTTP beyond loopback is accepted.
        monotonic: Clock in seconds.
        rng: Source of the jitter.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        client_id: str,
        client_secret: str,
        scope: str = "",
        token_endpoint: str | None = None,
        issuer: str = "",
        discovery_url: str | None = None,
        allow_http: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._http = http
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._endpoint = token_endpoint
        self._issuer = issuer
        self._discovery_url = discovery_url
        self._allow_http = allow_http
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._token = ""
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._flight: SingleFlight[None, str] = SingleFlight()
        self._renewal: asyncio.Task[str] | None = None

    async def token(self) -> str:
        """Returns an access token that is valid now; see TokenSource.token."""
        now = self._monotonic()
        if now < self._renew_at:
            return self._token
        if now >= self._ends_at:
            return await self._flight.run(None, self._renew)
        if not self._flight.busy:
            self._renewal = asyncio.create_task(self._flight.run(None, self._renew))
            self._renewal.add_done_callback(self._renewed)
        return self._token

    def invalidate(self, token: str) -> None:
        """Drops `token` when it is the one that is held."""
        if token == self._token:
            self._renew_at = self._ends_at = 0.0

    async def aclose(self) -> None:
        """Ends a renewal that is under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        await self._flight.aclose()

    def _renewed(self, renewal: asyncio.Task[str]) -> None:
        if not renewal.cancelled() and renewal.exception() is not None:
            # The old token serves on; the next try comes a little later, not with every call.
            self._renew_at = min(self._ends_at, self._monotonic() + 1.0)

    async def _renew(self) -> str:
        if self._endpoint is None:
            metadata = await discover(
                self._http, self._issuer, self._discovery_url, allow_http=self._allow_http
            )
            self._endpoint = metadata.token_endpoint
        data = {"grant_type": "client_credentials"}
        if self._scope:
            data["scope"] = self._scope
        asked_at = self._monotonic()
        answer = await request_token(
            self._http,
            self._endpoint,
            data,
            client_id=self._client_id,
            client_secret=self._client_secret,
            allow_http=self._allow_http,
        )
        part = REFRESH_AT + self._rng.uniform(-JITTER, JITTER)
        self._token = answer.access_token
        self._renew_at = asked_at + answer.expires_in * part
        self._ends_at = asked_at + answer.expires_in
        return self._token
