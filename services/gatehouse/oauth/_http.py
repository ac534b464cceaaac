"""Bounded HTTP towards an issuer: no redirects, bodies and times limited, https unless loopback."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import httpx

from gatehouse.oauth._json import strict_object
from gatehouse.oauth.errors import IssuerUnavailable
from gatehouse.settings import url_error

MAX_BODY_BYTES = 64 * 1024
FETCH_SECONDS = 5.0

# Identity, because a compressed body of the greatest size would be far larger in memory.
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What an issuer answered; `body` is None when it is not one JSON object."""

    status: int
    body: Mapping[str, Any] | None = field(repr=False)
    retry_after: str = ""

    @property
    def ok(self) -> bool:
        """Whether the status is 200."""
        return self.status == httpx.codes.OK

    @property
    def away(self) -> bool:
        """Whether the issuer says that it cannot answer now: 429, or its own fault."""
        return (
            self.status == httpx.codes.TOO_MANY_REQUESTS or self.status >= httpx.codes.INTERNAL_SERVER_ERROR
        )


def url_fault(url: str, *, allow_http: bool) -> str:
    """Says why `url` must not be asked, or "" when it may; see gatehouse.settings.url_error."""
    try:
        _ = httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):  # ValueError: characters that cannot be encoded, names of no IDN
        return "url_malformed"
    return url_error(url, allow_http=allow_http)


async def get_object(http: httpx.AsyncClient, url: str, *, allow_http: bool, what: str) -> Mapping[str, Any]:
    """Fetches a JSON object with GET; anything but 200 is an outage.

    Args:
        http: Client to ask with.
        url: Where.
        allow_http: Whether plain HTTP beyond loopback is accepted.
        what: Start of the reasons, such as `keys`.

    Raises:
        IssuerUnavailable: No answer, one too late or too large, a redirect, or not a JSON object.
    """
    _require_safe(url, allow_http=allow_http)
    answer = await _send(http, http.build_request("GET", url, headers=_HEADERS), what)
    if not answer.ok:
        raise IssuerUnavailable(f"{what}_failed")
    if answer.body is None:
        raise IssuerUnavailable(f"{what}_not_json")
    return answer.body


async def post_form(
    http: httpx.AsyncClient,
    url: str,
    data: Mapping[str, str],
    auth: tuple[str, str] | None,
    *,
    allow_http: bool,
    what: str,
) -> Answer:
    """Posts a form, with the client's id and secret as Basic credentials (RFC 6749 section 2.3.1).

    Args:
        http: Client to ask with.
        url: Where.
        data: The form.
        auth: Client id and secret, or None for a public client.
        allow_http: Whether plain HTTP beyond loopback is accepted.
        what: Start of the reasons, such as `introspection`.

    Raises:
        IssuerUnavailable: No answer, one too late or too large, or a redirect.
    """
    _require_safe(url, allow_http=allow_http)
    headers = dict(_HEADERS)
    if auth is not None:
        # Both are form-urlencoded before they are joined.
        joined = ":".join(quote_plus(part) for part in auth)
        headers["authorization"] = f"Basic {base64.b64encode(joined.encode()).decode()}"
    return await _send(http, http.build_request("POST", url, data=data, headers=headers), what)


def _require_safe(url: str, *, allow_http: bool) -> None:
    fault = url_fault(url, allow_http=allow_http)
    if fault:
        raise IssuerUnavailable(fault)


async def _send(http: httpx.AsyncClient, request: httpx.Request, what: str) -> Answer:
    body = bytearray()
    fault = ""
    response: httpx.Response | None = None
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            response = await http.send(request, stream=True, follow_redirects=False, auth=None)
            try:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        fault = "body_too_large"
                        break
            finally:
                await response.aclose()
    except (TimeoutError, httpx.TimeoutException):
        fault = "timeout"
    except (httpx.HTTPError, OSError):
        fault = "unreachable"
    # Raised out here, so that no exception of httpx, which holds the request and its secrets, goes along.
    if response is None or fault:
        raise IssuerUnavailable(f"{what}_{fault}")
    if response.is_redirect:
        raise IssuerUnavailable(f"{what}_redirected")
    return Answer(
        status=response.status_code,
        body=strict_object(bytes(body)) if _is_plain_json(response.headers) else None,
        retry_after=response.headers.get("retry-after", ""),
    )


def _is_plain_json(headers: httpx.Headers) -> bool:
    """Whether the body is JSON by its media type (RFC 8259, RFC 6839), and is not compressed."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return is_json and str(headers.get("content-encoding", "identity")).lower() == "identity"
