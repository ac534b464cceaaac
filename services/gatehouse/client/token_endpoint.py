"""Requests of OAuth2 clients: token (RFC 6749), introspection (RFC 7662) and revocation (RFC 7009)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed, is_b64token
from gatehouse.oauth._http import Form, IssuerResponse, post_form

DEFAULT_LIFETIME_SECONDS = 60.0
MAX_LIFETIME_SECONDS = 24 * 3600.0
MAX_RETRY_AFTER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A successful response of a token endpoint (RFC 6749 section 5.1); `expires_in` in seconds."""

    access_token: str = field(repr=False)
    token_type: str
    expires_in: float
    scope: str = ""
    refresh_token: str | None = field(default=None, repr=False)
    id_token: str | None = field(default=None, repr=False)


async def request_token(
    http: httpx.AsyncClient,
    token_endpoint: str,
    data: Form,
    auth: tuple[str, str] | None = None,
    *,
    allow_http: bool = False,
    clock: Callable[[], float] = time.time,
) -> TokenResponse:
    """Request tokens (RFC 6749 section 3.2).

    Args:
        http: HTTP client.
        token_endpoint: URL of the endpoint.
        data: Parameters of the grant with `grant_type`, and `client_id` for a public client.
        auth: Client id and secret; None for a public client.
        allow_http: Allow plain HTTP to hosts other than loopback.
        clock: Seconds since the epoch, for a Retry-After that is a date.

    Raises:
        TokenRequestFailed: The endpoint refused (RFC 6749 section 5.2).
        IssuerUnavailable: The endpoint gave no usable response.
    """
    response = await post(http, token_endpoint, data, auth, allow_http, clock, "token_endpoint")
    body = response.body or {}
    token, kind = body.get("access_token"), body.get("token_type")
    # Only a b64token can be sent in a header; anything else would show up in the text of an error.
    if not isinstance(token, str) or not is_b64token(token):
        raise TokenRequestFailed("malformed_response", detail=f"{response.url}: no usable access_token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenRequestFailed("malformed_response", detail=f"{response.url}: token_type is not Bearer")
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
    """Introspect `token` and return the response (RFC 7662 section 2.2).

    Raises:
        TokenRequestFailed: The endpoint refused.
        IssuerUnavailable: The endpoint gave no usable response.
    """
    auth = (client_id, client_secret)
    response = await post(http, endpoint, {"token": token}, auth, allow_http, time.time, "introspection")
    if response.body is None:
        raise TokenRequestFailed("malformed_response", detail=response.detail)
    return response.body


async def revoke(
    http: httpx.AsyncClient,
    endpoint: str,
    client_id: str,
    client_secret: str | None,
    token: str,
    *,
    allow_http: bool = False,
) -> None:
    """Revoke `token` (RFC 7009 section 2); `client_secret` is None for a public client.

    Raises:
        TokenRequestFailed: The endpoint refused, even if with status 200.
        IssuerUnavailable: The endpoint gave no usable response.
    """
    data, auth = {"token": token}, None
    if client_secret is None:
        data["client_id"] = client_id
    else:
        auth = (client_id, client_secret)
    response = await post(http, endpoint, data, auth, allow_http, time.time, "revocation")
    if response.body is not None and "error" in response.body:
        raise refusal(response)


async def post(
    http: httpx.AsyncClient,
    endpoint: str,
    data: Form,
    auth: tuple[str, str] | None,
    allow_http: bool,  # noqa: FBT001 - for this package
    clock: Callable[[], float],
    what: str,
) -> IssuerResponse:
    """Post a form and return the successful response; `what` is the prefix of the error reasons."""
    response = await post_form(http, endpoint, data, auth, allow_http=allow_http, what=what)
    if response.is_unavailable:
        retry_after = _retry_after_seconds(response.retry_after, clock)
        raise IssuerUnavailable(f"{what}_busy", retry_after, detail=response.detail)
    if not response.ok:
        raise refusal(response)
    return response


def refusal(response: IssuerResponse) -> TokenRequestFailed:
    """Return the error of a response that refuses a request."""
    return TokenRequestFailed(response.error or "malformed_response", detail=response.detail)


def _lifetime(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return DEFAULT_LIFETIME_SECONDS
    return float(min(value, MAX_LIFETIME_SECONDS))


def _retry_after_seconds(value: str, clock: Callable[[], float]) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110 section 10.2.3), None if it is invalid."""
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - clock()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)
