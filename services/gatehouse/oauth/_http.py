"""Bounded HTTP requests: no redirects, limited bodies and times, https except on loopback."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import httpx

from gatehouse.oauth._http_failure import ERROR_CODES, NOT_SENT, HttpFailure, explain, shown_url
from gatehouse.oauth._json import strict_object
from gatehouse.oauth.errors import IssuerUnavailable, IssuerUnreachable
from gatehouse.settings import url_error

MAX_BODY_BYTES = 64 * 1024
FETCH_SECONDS = 5.0

# A field with a list is sent once for each value.
Form = Mapping[str, str | list[str]]

_HEADERS = {"accept": "application/json"}


@dataclass(frozen=True, slots=True)
class IssuerResponse:
    """A response of an issuer; `body` is None if it is not a JSON object."""

    status: int
    body: Mapping[str, Any] | None = field(repr=False)
    retry_after: str = ""
    url: str = ""

    @property
    def ok(self) -> bool:
        """Whether the status is 200."""
        return self.status == httpx.codes.OK

    @property
    def is_unavailable(self) -> bool:
        """Whether the issuer responded that it is unavailable: 429 or 5xx."""
        return (
            self.status == httpx.codes.TOO_MANY_REQUESTS or self.status >= httpx.codes.INTERNAL_SERVER_ERROR
        )

    @property
    def error(self) -> str:
        """The `error` code of the body (RFC 6749 section 5.2), "" if it has no well-known one."""
        error = (self.body or {}).get("error")
        return error if isinstance(error, str) and error in ERROR_CODES else ""

    @property
    def detail(self) -> str:
        """URL, status and error code, for operators."""
        kind = self.error or ("" if self.body is not None else "no JSON object")
        return f"{self.url}: HTTP {self.status}{f' ({kind})' if kind else ''}"


async def send_bounded(
    http: httpx.AsyncClient, request: httpx.Request, *, max_body_bytes: int = MAX_BODY_BYTES
) -> tuple[httpx.Response, bytes]:
    """Send a request and return the response and its body, within FETCH_SECONDS and without redirects.

    Args:
        http: HTTP client.
        request: Request to send.
        max_body_bytes: Largest body to read, in bytes.

    Raises:
        HttpFailure: No complete response arrived.
    """
    # A compressed body could be far larger in memory than the limit.
    request.headers["accept-encoding"] = "identity"
    body = bytearray()
    reason, what, sent = "", "", True
    response: httpx.Response | None = None
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            response = await http.send(request, stream=True, follow_redirects=False, auth=None)
            try:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > max_body_bytes:
                        reason, what = "body_too_large", f"more than {max_body_bytes} bytes"
                        break
            finally:
                await response.aclose()
    except (TimeoutError, httpx.TimeoutException) as error:
        reason, what, sent = "timeout", "no response in time", not isinstance(error, NOT_SENT)
    except (httpx.HTTPError, OSError) as error:
        reason, what, sent = "unreachable", explain(error), not isinstance(error, NOT_SENT)
    # Raised here, because the exceptions of httpx hold the request with its secrets.
    if response is None or reason:
        detail = f"{shown_url(request.url)}: {what}"
        raise HttpFailure(reason, detail=detail, sent=sent, responded=response is not None)
    return response, bytes(body)


def request_url_error(url: str, *, allow_http: bool) -> str:
    """Return why `url` must not be used, or ""; see gatehouse.settings.url_error."""
    try:
        _ = httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):  # ValueError: characters that cannot be encoded, invalid IDN
        return "url_malformed"
    return url_error(url, allow_http=allow_http)


async def get_object(http: httpx.AsyncClient, url: str, *, allow_http: bool, what: str) -> Mapping[str, Any]:
    """Fetch a JSON object with GET.

    Args:
        http: HTTP client.
        url: URL.
        allow_http: Whether plain HTTP to hosts other than loopback is allowed.
        what: Prefix of the error reasons, such as `keys`.

    Raises:
        IssuerUnreachable: No HTTP response.
        IssuerUnavailable: A response that is too slow, too large, an error, a redirect, or not a JSON object.
    """
    _require_safe(url, allow_http=allow_http)
    response = await _send(http, http.build_request("GET", url, headers=_HEADERS), what)
    if not response.ok:
        raise IssuerUnavailable(f"{what}_failed", detail=response.detail)
    if response.body is None:
        raise IssuerUnavailable(f"{what}_not_json", detail=response.detail)
    return response.body


async def post_form(
    http: httpx.AsyncClient,
    url: str,
    data: Form,
    auth: tuple[str, str] | None,
    *,
    allow_http: bool,
    what: str,
) -> IssuerResponse:
    """Post a form, with client id and secret as Basic credentials (RFC 6749 section 2.3.1).

    Args:
        http: HTTP client.
        url: URL.
        data: Fields of the form.
        auth: Client id and secret, or None for a public client.
        allow_http: Whether plain HTTP to hosts other than loopback is allowed.
        what: Prefix of the error reasons, such as `introspection`.

    Raises:
        IssuerUnreachable: No HTTP response.
        IssuerUnavailable: A response that is too slow, too large, or a redirect.
    """
    _require_safe(url, allow_http=allow_http)
    headers = dict(_HEADERS)
    if auth is not None:
        # Both are form-urlencoded before they are joined.
        joined = ":".join(quote_plus(part) for part in auth)
        headers["authorization"] = f"Basic {base64.b64encode(joined.encode()).decode()}"
    return await _send(http, http.build_request("POST", url, data=data, headers=headers), what)


def _require_safe(url: str, *, allow_http: bool) -> None:
    error = request_url_error(url, allow_http=allow_http)
    if error:
        raise IssuerUnavailable(error, detail=url.partition("?")[0])


async def _send(http: httpx.AsyncClient, request: httpx.Request, what: str) -> IssuerResponse:
    try:
        response, body = await send_bounded(http, request)
    except HttpFailure as error:
        kind = IssuerUnavailable if error.responded else IssuerUnreachable
        raise kind(f"{what}_{error.reason}", detail=error.detail) from None
    url = shown_url(request.url)
    if response.is_redirect:
        raise IssuerUnavailable(
            f"{what}_redirected",
            detail=f"{url}: HTTP {response.status_code}; redirects are not followed",
        )
    return IssuerResponse(
        url=url,
        status=response.status_code,
        body=strict_object(body) if _is_plain_json(response.headers) else None,
        retry_after=response.headers.get("retry-after", ""),
    )


def _is_plain_json(headers: httpx.Headers) -> bool:
    """Return whether the media type is JSON (RFC 8259, RFC 6839) and the body is not compressed."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return is_json and str(headers.get("content-encoding", "identity")).lower() == "identity"
