"""Device authorization (RFC 8628): a user logs in on another device, which has a browser."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from gatehouse.client._pkce import challenge, new_verifier
from gatehouse.client.login_errors import LoginCancelled
from gatehouse.client.oauth_client import WAITING, OAuthClient
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed, request_url_error

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
MAX_INTERVAL_SECONDS = 60.0
MAX_LIFETIME_SECONDS = 3600.0
_PRINTABLE = re.compile(r"[ -~]{1,2000}")


@dataclass(frozen=True, slots=True)
class DevicePrompt:
    """What to show to the user.

    Attributes:
        user_code: The code to type in.
        verification_uri: The page to open.
        verification_uri_complete: The same with the code, for a link or a QR code; "" if there is none.
        expires_in: Seconds until the code expires.
    """

    user_code: str = field(repr=False)
    verification_uri: str
    verification_uri_complete: str = field(repr=False)
    expires_in: float


async def login_on_device(
    client: OAuthClient,
    on_prompt: Callable[[DevicePrompt], None],
    scope: str = "",
    *,
    parameters: Mapping[str, str] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> TokenResponse:
    """Let a user log in on another device, and return the tokens.

    Args:
        client: The client to log in to.
        on_prompt: Shows the page and the code to the user.
        scope: Scopes to request, separated by spaces.
        parameters: Further parameters of the authorization request, such as `audience`.
        sleep: Waits for a number of seconds.
        monotonic: Seconds of a monotonic clock.

    Raises:
        LoginCancelled: The user declined, or the code has expired.
        TokenRequestFailed: The issuer refused.
        IssuerUnavailable: The issuer has no device authorization, or does not respond.
    """
    endpoint = (await client.metadata()).device_authorization_endpoint
    if not endpoint:
        raise IssuerUnavailable("device_authorization_endpoint_missing", detail="not in the metadata")
    verifier = new_verifier()
    ends_at = monotonic()
    request = {**(parameters or {}), "scope": scope, **challenge(verifier)}
    body = await client.post(endpoint, request, "device_authorization")
    prompt, device_code = _parse(body)
    ends_at += prompt.expires_in
    interval = _seconds(body.get("interval"), 5.0, MAX_INTERVAL_SECONDS)
    form = {"grant_type": GRANT_TYPE, "device_code": device_code, "code_verifier": verifier}
    on_prompt(prompt)
    while monotonic() + interval < ends_at:
        await sleep(interval)
        try:
            return await client.request_token(form)
        except TokenRequestFailed as error:
            if error.error == "slow_down":
                interval += 5.0
            elif error.error in {"access_denied", "expired_token"}:
                raise LoginCancelled(error.error) from None
            elif error.error not in WAITING:
                raise
        except IssuerUnavailable as error:
            # RFC 8628 section 3.5 asks for exponential backoff.
            interval = min(max(interval * 2, error.retry_after or 0.0), MAX_INTERVAL_SECONDS)
    raise LoginCancelled("expired_token")


def _parse(body: Mapping[str, object]) -> tuple[DevicePrompt, str]:
    """Return the prompt and the device code of a device authorization response (RFC 8628 section 3.2)."""
    uri = _text(body, "verification_uri")
    complete = _text(body, "verification_uri_complete") if "verification_uri_complete" in body else ""
    for url in (uri, complete):
        if url and request_url_error(url, allow_http=False):
            raise TokenRequestFailed("malformed_response", detail="verification_uri is not an https URL")
    seconds = _seconds(body.get("expires_in"), 600.0, MAX_LIFETIME_SECONDS)
    return DevicePrompt(_text(body, "user_code"), uri, complete, seconds), _text(body, "device_code")


def _text(body: Mapping[str, object], name: str) -> str:
    """Return a text that can be shown in a terminal: control characters could forge what it shows."""
    value = body.get(name)
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
        raise TokenRequestFailed("malformed_response", detail=f"{name}: missing or not printable")
    return value


def _seconds(value: object, default: float, largest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return default
    return float(min(value, largest))
