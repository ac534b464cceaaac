"""Bounded HTTP towards an issuer: no redirects, bodies and times limited, https unless loopback."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

import httpx

from gatehouse.oauth.errors import IssuerUnavailable

MAX_BODY_BYTES = 64 * 1024
FETCH_SECONDS = 5.0


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_safe_url(url: str, *, allow_http: bool) -> None:
    """Refuses an address that is neither https, nor http on loopback or allowed.

    Raises:
        IssuerUnavailable: `url_not_https`.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise IssuerUnavailable("url_malformed") from error
    if parsed.scheme == "https" and parsed.host:
        return
    if parsed.scheme == "http" and (allow_http or is_loopback(parsed.host)):
        return
    raise IssuerUnavailable("url_not_https")


async def send_json(
    http: httpx.AsyncClient,
    request: httpx.Request,
    *,
    allow_http: bool,
    seconds: float = FETCH_SECONDS,
    what: str = "issuer",
) -> tuple[int, Mapping[str, Any]]:
    """Sends `request` and returns the status and the JSON object of the answer; {} when it has no body.

    Args:
        http: Client to send with.
        request: Request to send.
        allow_http: Whether plain HTTP beyond loopback is accepted.
        seconds: Bound on the whole exchange.
        what: Start of the reasons, such as `introspection`.

    Raises:
        IssuerUnavailable: No answer, one too late, too large, a redirect, or not a JSON object.
    """
    require_safe_url(str(request.url), allow_http=allow_http)
    try:
        async with asyncio.timeout(seconds):
            response = await http.send(request, stream=True, follow_redirects=False)
            try:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise IssuerUnavailable(f"{what}_body_too_large")
            finally:
                await response.aclose()
    except TimeoutError:
        raise IssuerUnavailable(f"{what}_timeout") from None
    except httpx.TimeoutException:
        raise IssuerUnavailable(f"{what}_timeout") from None
    except httpx.HTTPError:
        raise IssuerUnavailable(f"{what}_unreachable") from None
    if response.is_redirect:
        raise IssuerUnavailable(f"{what}_redirected")
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise IssuerUnavailable(f"{what}_failed")
    if not body:
        return response.status_code, {}
    try:
        answer = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise IssuerUnavailable(f"{what}_not_json") from None
    if not isinstance(answer, dict):
        raise IssuerUnavailable(f"{what}_not_json")
    return response.status_code, answer


async def get_json(
    http: httpx.AsyncClient, url: str, *, allow_http: bool, what: str, seconds: float = FETCH_SECONDS
) -> Mapping[str, Any]:
    """Fetches a JSON object with GET; anything but 200 is an outage.

    Raises:
        IssuerUnavailable: As in send_json, or the status is not 200.
    """
    require_safe_url(url, allow_http=allow_http)
    request = http.build_request("GET", url, headers={"accept": "application/json"})
    status, answer = await send_json(http, request, allow_http=allow_http, what=what, seconds=seconds)
    if status != httpx.codes.OK:
        raise IssuerUnavailable(f"{what}_failed")
    return answer
