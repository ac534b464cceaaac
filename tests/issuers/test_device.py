"""Device authorization: RFC 8628."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.issuers.idp import (
    CONSOLE,
    Browser,
    Idp,
    Json,
    claims_of,
    client_of,
    fields_of,
    granted,
    is_login_page,
    refusal,
)
from tests.support.eventually import eventually
from tests.support.issuer import SECRETS

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
WORKER = "gatehouse-worker"


@dataclass
class Device:
    """A device that logs in; `browser` is that of its user."""

    idp: Idp
    browser: Browser

    async def ask(self, *, without: str = "", **more: str) -> httpx.Response:
        """Send a device authorization request."""
        form = {"client_id": CONSOLE, "scope": "openid read:users"} | self.browser.challenge | more
        return await self.idp.http.post(
            self.idp.url("auth/device"), data={k: v for k, v in form.items() if k != without}
        )

    async def start(self, **more: str) -> Json:
        return granted(await self.ask(**more))

    async def poll(self, code: str, **more: str) -> httpx.Response:
        """Send a token request."""
        form = {"client_id": CONSOLE, "device_code": code, "code_verifier": self.browser.verifier} | more
        return await self.idp.token(grant_type=GRANT, **form)

    async def decision(self, code: str, **more: str) -> httpx.Response:
        """Poll as fast as the issuer allows until there is an answer that is not about waiting."""

        async def poll() -> httpx.Response | None:
            answer = await self.poll(code, **more)
            return None if answer.json().get("error") in {"authorization_pending", "slow_down"} else answer

        found = await eventually(poll, interval=0.3)
        assert found is not None
        return found


@pytest.fixture
def device(idp: Idp, browser: Browser) -> Device:
    return Device(idp, browser)


def with_attributes(**attributes: str) -> Any:
    def change(realm: Json) -> None:
        known = client_of(realm, CONSOLE)["attributes"]
        known |= {f"oauth2.device.{name.replace('_', '.')}": value for name, value in attributes.items()}

    return change


async def test_metadata_lists_endpoint_and_grant(idp: Idp) -> None:
    found = (await idp.http.get(f"{idp.issuer}/.well-known/openid-configuration")).json()
    assert found["device_authorization_endpoint"] == idp.url("auth/device")
    assert GRANT in found["grant_types_supported"]


async def test_device_gets_codes_and_a_page(device: Device, idp: Idp) -> None:
    answer = await device.ask()
    assert "no-store" in answer.headers["cache-control"]
    found = granted(answer)
    assert len(found.pop("device_code")) >= 32
    code = found.pop("user_code")
    page = f"{idp.issuer}/device"
    assert found == {
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code={code}",
        "expires_in": 600,
        "interval": 5,
    }


async def test_user_enters_the_code_logs_in_and_accepts(device: Device, browser: Browser) -> None:
    started = await device.start()
    page = await browser.request("GET", started["verification_uri"])
    assert "device_user_code" in fields_of(page)
    page = await browser.submit(page, device_user_code="XXXX-XXXX")
    assert "device_user_code" in fields_of(page)
    page = await browser.submit(page, device_user_code=started["user_code"].lower().replace("-", ""))
    assert is_login_page(page)
    page = await browser.submit(page, username="alice", password="wrong")
    assert is_login_page(page)
    assert (await browser.decide(page)).status_code == 200
    tokens = granted(await device.poll(started["device_code"]))
    assert {"access_token", "refresh_token", "id_token", "session_state"} <= set(tokens)
    assert tokens["scope"] == "openid read:users"
    claims = claims_of(tokens["access_token"])
    assert (claims["azp"], claims["acr"], claims["aud"]) == (CONSOLE, "1", "gatehouse-api")
    assert claims["auth_time"] <= claims["iat"]
    assert "nonce" not in claims_of(tokens["id_token"])


async def test_device_code_can_be_used_once(device: Device, browser: Browser) -> None:
    started = await device.start()
    await browser.decide(await browser.request("GET", started["verification_uri_complete"]))
    tokens = granted(await device.poll(started["device_code"]))
    assert refusal(await device.poll(started["device_code"])) == (400, "invalid_grant")
    assert await device.idp.is_active(tokens["access_token"])


async def test_device_waits_for_the_user_and_may_not_poll_too_fast(device: Device) -> None:
    code = (await device.start())["device_code"]
    assert refusal(await device.poll(code)) == (400, "authorization_pending")
    assert refusal(await device.poll(code)) == (400, "slow_down")


async def test_user_can_deny_access(device: Device, browser: Browser) -> None:
    started = await device.start()
    page = await browser.request("GET", started["verification_uri_complete"])
    await browser.decide(page, "cancel")
    assert refusal(await device.poll(started["device_code"])) == (400, "access_denied")


async def test_decided_user_code_cannot_be_entered_again(device: Device, browser: Browser) -> None:
    for answer in ("accept", "cancel"):
        started = await device.start()
        page = await browser.request("GET", started["verification_uri_complete"])
        await browser.decide(page, answer)
        again = await browser.request("GET", started["verification_uri_complete"])
        assert "device_user_code" in fields_of(again)


async def test_user_with_a_session_is_asked_too(device: Device, browser: Browser) -> None:
    await browser.sign_in()
    started = await device.start()
    page = await browser.request("GET", started["verification_uri_complete"])
    assert {"accept", "cancel"} <= fields_of(page)
    assert refusal(await device.poll(started["device_code"])) == (400, "authorization_pending")


async def test_scope_is_limited_to_client_and_user(device: Device, browser: Browser) -> None:
    started = await device.start(scope="nothing read:users admin")
    page = await browser.request("GET", started["verification_uri_complete"])
    await browser.decide(page, user="bob")
    assert granted(await device.poll(started["device_code"]))["scope"] == "read:users"


async def test_device_must_show_the_verifier_and_a_wrong_one_does_not_use_up_the_code(idp: Idp) -> None:
    async with idp.realm_like(with_attributes(polling_interval="1")) as realm:
        browser = Browser(realm, realm.http)
        device = Device(realm, browser)
        started = await device.start()
        assert started["interval"] == 1
        await browser.decide(await browser.request("GET", started["verification_uri_complete"]))
        code = started["device_code"]
        for verifier in ("A" * 50, ""):
            assert refusal(await device.decision(code, code_verifier=verifier)) == (400, "invalid_grant")
        assert "access_token" in granted(await device.decision(code))


@pytest.mark.parametrize(
    "form",
    [{"without": "code_challenge"}, {"without": "code_challenge_method"}, {"code_challenge_method": "plain"}],
    ids=str,
)
async def test_challenge_is_required(device: Device, form: dict[str, str]) -> None:
    assert refusal(await device.ask(**form)) == (400, "invalid_request")


async def test_client_must_be_known_and_have_the_flow(device: Device) -> None:
    secret = SECRETS[WORKER]
    assert refusal(await device.ask(client_id="unknown")) == (401, "invalid_client")
    assert refusal(await device.ask(without="client_id")) == (401, "invalid_client")
    assert refusal(await device.ask(client_id=WORKER, client_secret="no")) == (401, "unauthorized_client")
    assert refusal(await device.ask(client_id=WORKER, client_secret=secret)) == (400, "unauthorized_client")


async def test_device_code_must_be_known_and_of_the_client(device: Device) -> None:
    code = (await device.start())["device_code"]
    other = {"client_id": WORKER, "client_secret": SECRETS[WORKER]}
    assert refusal(await device.poll(code, **other)) == (400, "invalid_grant")
    assert refusal(await device.poll("unknown")) == (400, "invalid_grant")
    assert refusal(await device.idp.token(grant_type=GRANT, client_id=CONSOLE)) == (400, "invalid_request")


async def test_device_code_expires(idp: Idp) -> None:
    async with idp.realm_like(with_attributes(code_lifespan="1", polling_interval="1")) as realm:
        device = Device(realm, Browser(realm, realm.http))
        started = await device.start()
        assert started["expires_in"] == 1
        assert refusal(await device.decision(started["device_code"])) == (400, "expired_token")
        page = await device.browser.request("GET", started["verification_uri_complete"])
        assert "device_user_code" in fields_of(page)
