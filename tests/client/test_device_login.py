"""Device authorization (RFC 8628): polling, what the user decides, and hostile responses."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx
import pytest

from gatehouse.client import (
    ClientSecretBasic,
    DevicePrompt,
    LoginCancelled,
    OAuthClient,
    TokenResponse,
    login_on_device,
)
from gatehouse.oauth import IssuerUnavailable, OAuthError, TokenRequestFailed
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime

PROMPT = {
    "device_code": "the-device-code",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://id.test/device",
    "verification_uri_complete": "https://id.test/device?user_code=WDJB-MJHT",
    "expires_in": 600,
    "interval": 5,
}
GRANTED = Reply({"access_token": "access", "token_type": "Bearer", "refresh_token": "refresh"})


def refused(error: str) -> Reply:
    return Reply({"error": error}, 400)


class Device:
    """A device that logs in; it waits by moving the clock."""

    def __init__(self, http: httpx.AsyncClient, idp: LoopbackIssuer, time: ManualTime) -> None:
        self.client = OAuthClient(http, "console", issuer=idp.issuer)
        self.prompts: list[DevicePrompt] = []
        self.waited: list[float] = []
        self._idp, self._time = idp, time
        idp.answer(
            METADATA, lambda _: Reply(idp.metadata() | {"device_authorization_endpoint": idp.url("device")})
        )
        self.starts_with()

    def starts_with(self, **changes: Any) -> None:
        """Answer the device authorization request; a change to `...` removes a member."""
        body = {name: value for name, value in (PROMPT | changes).items() if value is not ...}
        self._idp.answer("device", Reply(body))

    def polls(self, *replies: Reply) -> None:
        """Answer the token requests one after the other; the last one again and again."""
        left = list(replies)

        def reply(_: Request) -> Reply:
            return left.pop(0) if len(left) > 1 else left[0]

        self._idp.answer("token", reply)

    async def login(self, scope: str = "read:users") -> TokenResponse:
        async def sleep(seconds: float) -> None:
            self.waited.append(seconds)
            self._time.advance(seconds)

        return await login_on_device(
            self.client, self.prompts.append, scope, sleep=sleep, monotonic=self._time.monotonic
        )


@pytest.fixture
def device(http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime) -> Device:
    return Device(http, idp, manual_time)


async def test_user_logs_in_on_another_device(device: Device, idp: LoopbackIssuer) -> None:
    device.polls(refused("authorization_pending"), refused("authorization_pending"), GRANTED)
    tokens = await device.login()
    assert (tokens.access_token, tokens.refresh_token) == ("access", "refresh")
    (prompt,) = device.prompts
    assert (prompt.user_code, prompt.verification_uri) == ("WDJB-MJHT", "https://id.test/device")
    assert "WDJB" not in repr(prompt)
    start = idp.last("device").form
    verifier = idp.last("token").form.pop("code_verifier")
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert start == {
        "client_id": "console",
        "scope": "read:users",
        "code_challenge": digest,
        "code_challenge_method": "S256",
    }
    assert idp.last("token").form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "the-device-code",
        "client_id": "console",
        "code_verifier": verifier,
    }
    assert device.waited == [5.0, 5.0, 5.0]
    assert idp.request_count(METADATA) == 1


async def test_polling_slows_down_when_asked_and_while_the_issuer_fails(device: Device) -> None:
    device.polls(
        refused("slow_down"),
        refused("authorization_pending"),
        Reply(b"", 503),
        Reply(b"", 429, {"retry-after": "40"}),
        Reply(b"", 503),
        GRANTED,
    )
    await device.login()
    assert device.waited == [5.0, 10.0, 10.0, 20.0, 40.0, 60.0]


@pytest.mark.parametrize("reason", ["access_denied", "expired_token"])
async def test_declined_login_is_cancelled(reason: str, device: Device) -> None:
    device.polls(refused("authorization_pending"), refused(reason))
    with pytest.raises(LoginCancelled, match=reason) as caught:
        await device.login()
    assert caught.value.reason == reason


async def test_polling_ends_with_the_code(device: Device, idp: LoopbackIssuer) -> None:
    device.starts_with(expires_in=16)
    device.polls(refused("authorization_pending"))
    with pytest.raises(LoginCancelled, match="expired_token"):
        await device.login()
    assert idp.request_count("token") == 3


async def test_refusal_ends_the_login(device: Device, idp: LoopbackIssuer) -> None:
    device.polls(refused("invalid_grant"))
    with pytest.raises(TokenRequestFailed, match="invalid_grant"):
        await device.login()
    idp.answer("device", refused("unauthorized_client"))
    with pytest.raises(TokenRequestFailed, match="unauthorized_client"):
        await device.login()
    idp.answer("device", Reply(b"", 503))
    with pytest.raises(IssuerUnavailable, match="device_authorization_busy"):
        await device.login()


@pytest.mark.parametrize(
    "changes",
    [
        {"device_code": ...},
        {"user_code": ...},
        {"user_code": "canary\x1b[2J"},
        {"user_code": "canary\u202e"},
        {"user_code": ["canary"]},
        {"user_code": "canary" * 1000},
        {"verification_uri": ...},
        {"verification_uri": "http://canary.test/device"},
        {"verification_uri": "javascript:canary"},
        {"verification_uri": "https://canary.test/\x1b]0;x"},
        {"verification_uri_complete": "file:///canary"},
    ],
    ids=range(11),
)
async def test_response_that_must_not_be_shown_is_refused(changes: dict[str, Any], device: Device) -> None:
    device.starts_with(**changes)
    with pytest.raises(OAuthError, match="malformed_response") as caught:
        await device.login()
    assert device.prompts == []
    assert "canary" not in repr(vars(caught.value))


@pytest.mark.parametrize(
    ("interval", "waited"), [(..., 5.0), (0, 5.0), ("9", 5.0), (True, 5.0), (10**9, 60.0)]
)
async def test_interval_is_bounded_and_has_a_default(interval: Any, waited: float, device: Device) -> None:
    device.starts_with(interval=interval)
    device.polls(GRANTED)
    await device.login()
    assert device.waited == [waited]


async def test_confidential_client_authenticates_at_both_endpoints(
    device: Device, idp: LoopbackIssuer, http: httpx.AsyncClient
) -> None:
    device.client = OAuthClient(http, "tv", ClientSecretBasic("secret"), issuer=idp.issuer)
    device.polls(GRANTED)
    await device.login(scope="")
    assert idp.last("device").basic == idp.last("token").basic == ("tv", "secret")
    assert "scope" not in idp.last("device").form


async def test_issuer_without_device_authorization_is_named(device: Device, idp: LoopbackIssuer) -> None:
    idp.answer(METADATA, Reply(idp.metadata()))
    with pytest.raises(IssuerUnavailable, match="device_authorization_endpoint_missing"):
        await device.login()
