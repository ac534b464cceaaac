"""Bounded HTTP towards an issuer: no redirects, bodies and times limited, https unless loopback."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import httpx

from gatehouse.oauth._json import strict_object
from gatehouse.oauth.errors import IssuerUnavailable

MAX_BODY_BYTES = 64 * 1024
FETCH_SECONDS = 5.0

_HEADERS = {"accept": "application/json"}
# Nothing was sent if httpx raises one of these.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_PORTS = range(1, 65536)


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


class HttpFailure(Exception):
    """No complete response arrived.

    Args:
        reason: `timeout`, `unreachable` or `body_too_large`.
        sent: Whether the server may have received the request.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


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
    reason, sent = "", True
    response: httpx.Response | None = None
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            response = await http.send(request, stream=True, follow_redirects=False, auth=None)
            try:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > max_body_bytes:
                        reason = "body_too_large"
                        break
            finally:
                await response.aclose()
    except (TimeoutError, httpx.TimeoutException) as error:
        reason, sent = "timeout", not isinstance(error, _NOT_SENT)
    except (httpx.HTTPError, OSError) as error:
        reason, sent = "unreachable", not isinstance(error, _NOT_SENT)
    # Raised here, because the exceptions of httpx hold the request with its secrets.
    if response is None or reason:
        raise HttpFailure(reason, sent=sent)
    return response, bytes(body)


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url_fault(url: str, *, allow_http: bool) -> str:
    """Says why `url` must not be asked, or "" when it may: https, or http on loopback or allowed."""
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port
    except (httpx.InvalidURL, ValueError):  # ValueError: characters that cannot be encoded, names of no IDN
        return "url_malformed"
    if not host or parsed.userinfo or parsed.fragment or (port is not None and port not in _PORTS):
        return "url_malformed"
    if parsed.scheme == "https" or (parsed.scheme == "http" and (allow_http or is_loopback(host))):
        return ""
    return "url_not_https"


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
    try:
        response, body = await send_bounded(http, request)
    except HttpFailure as error:
        raise IssuerUnavailable(f"{what}_{error.reason}") from None
    if response.is_redirect:
        raise IssuerUnavailable(f"{what}_redirected")
    return Answer(
        status=response.status_code,
        body=strict_object(body) if _is_plain_json(response.headers) else None,
        retry_after=response.headers.get("retry-after", ""),
    )


def _is_plain_json(headers: httpx.Headers) -> bool:
    """Whether the body is JSON by its media type (RFC 8259, RFC 6839), and is not compressed."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return is_json and str(headers.get("content-encoding", "identity")).lower() == "identity"
