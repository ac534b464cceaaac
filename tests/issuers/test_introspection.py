"""Introspection: RFC 7662, with the behavior of Keycloak."""

import base64

import pytest

from tests.issuers.idp import CONSOLE, Browser, Idp, Json, claims_of, client_of, granted, refusal, sent_back
from tests.support.eventually import eventually
from tests.support.issuer import SECRETS
from tests.support.realm import token_roles

API = {"client_id": "gatehouse-api", "client_secret": SECRETS["gatehouse-api"]}
INACTIVE = {"active": False}


async def test_api_client_introspects_the_token_of_a_user(idp: Idp) -> None:
    token = await idp.user_token("alice", "read:users admin")
    found = await idp.introspect(token)
    claims = claims_of(token)
    people = {"preferred_username", "name", "email", "email_verified"}
    assert not people & claims.keys()
    assert found.keys() == claims.keys() | people | {"active", "client_id", "token_type", "username"}
    assert {name: found[name] for name in claims if name != "realm_access"} == {
        name: claims[name] for name in claims if name != "realm_access"
    }
    assert (found["active"], found["token_type"]) == (True, "Bearer")
    assert (found["username"], found["client_id"]) == ("alice", CONSOLE)
    assert set(found["realm_access"]["roles"]) == token_roles("alice")


async def test_api_client_introspects_the_token_of_a_service_account(idp: Idp) -> None:
    found = await idp.introspect(await idp.service_token())
    assert found["active"] is True
    assert found["username"] == "service-account-gatehouse-worker"
    assert found["client_id"] == "gatehouse-worker"
    assert "sid" not in found


async def test_token_is_inactive_for_clients_outside_its_audience(idp: Idp) -> None:
    assert await idp.introspect(await idp.user_token(), "gatehouse-worker") == INACTIVE


async def test_own_token_is_inactive_for_a_client_outside_its_audience(idp: Idp) -> None:
    assert await idp.introspect(await idp.service_token(), "gatehouse-worker") == INACTIVE


async def test_token_with_another_audience_is_inactive(idp: Idp) -> None:
    token = await idp.service_token("gatehouse-elsewhere")
    assert "aud" not in claims_of(token)
    assert await idp.introspect(token) == INACTIVE


async def test_wrong_hint_makes_a_token_inactive(idp: Idp) -> None:
    tokens = await idp.user_tokens()
    assert await idp.introspect(tokens["access_token"], token_type_hint="refresh_token") == INACTIVE
    assert await idp.introspect(tokens["refresh_token"], token_type_hint="access_token") == INACTIVE


@pytest.mark.parametrize("token", ["garbage", "a.b.c", "", "x" * 5000])
async def test_garbage_is_inactive(idp: Idp, token: str) -> None:
    assert await idp.introspect(token) == INACTIVE


async def test_tampered_token_is_inactive(idp: Idp) -> None:
    head, _, signature = (await idp.user_token("bob")).split(".")
    claims = base64.urlsafe_b64encode(b'{"iss":"x","aud":"gatehouse-api","exp":9999999999,"typ":"Bearer"}')
    assert await idp.introspect(f"{head}.{claims.decode().rstrip('=')}.{signature}") == INACTIVE


async def test_token_of_another_realm_is_inactive(idp: Idp) -> None:
    async with idp.realm_like(lambda _: None) as other:
        token = await other.user_token()
        assert await other.is_active(token)
        assert await idp.introspect(token) == INACTIVE


async def test_expired_token_is_inactive(idp: Idp) -> None:
    token = await idp.service_token("gatehouse-brief")

    async def expired() -> bool:
        return not await idp.is_active(token)

    await eventually(expired)
    assert await idp.introspect(token) == INACTIVE


async def test_hints_are_accepted(idp: Idp) -> None:
    token = await idp.user_token()
    assert (await idp.introspect(token, token_type_hint="access_token"))["active"] is True


async def test_own_id_token_is_active_with_typ_id(idp: Idp) -> None:
    def api_with_password(realm: Json) -> None:
        client_of(realm, "gatehouse-api")["directAccessGrantsEnabled"] = True

    async with idp.realm_like(api_with_password) as other:
        tokens = granted(await other.password_answer(**API, scope="openid"))
        found = await other.introspect(tokens["id_token"])
        assert (found["active"], found["typ"], found["token_type"]) == (True, "ID", "ID")
        refresh = await other.introspect(tokens["refresh_token"], token_type_hint="refresh_token")
        assert (refresh["active"], refresh["typ"]) == (True, "Refresh")
        assert refresh["token_type"] == "Refresh"


async def test_id_and_refresh_tokens_of_other_clients_are_inactive(idp: Idp) -> None:
    tokens = await idp.user_tokens(scope="openid read:users")
    assert await idp.introspect(tokens["id_token"]) == INACTIVE
    assert await idp.introspect(tokens["refresh_token"], token_type_hint="refresh_token") == INACTIVE
    assert await idp.introspect(tokens["refresh_token"]) == INACTIVE


async def test_introspected_acr_is_that_of_the_session(idp: Idp, browser: Browser) -> None:
    old = (await browser.tokens())["access_token"]
    assert (await idp.introspect(old))["acr"] == claims_of(old)["acr"] == "1"
    granted(await browser.exchange(sent_back(await browser.open())["code"]))
    assert (await idp.introspect(old))["acr"] == "0"
    assert claims_of(old)["acr"] == "1"


async def test_introspected_auth_time_is_that_of_the_session(idp: Idp, browser: Browser) -> None:
    old = (await browser.tokens())["access_token"]

    async def login_is_newer() -> bool:
        page = await browser.open(prompt="login")
        sent_back(await browser.submit(page, password="alice"))
        return bool((await idp.introspect(old))["auth_time"] > claims_of(old)["auth_time"])

    await eventually(login_is_newer)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({**API, "client_secret": "wrong", "token": "x"}, (401, "invalid_client")),
        ({"client_id": "gatehouse-api", "token": "x"}, (401, "invalid_client")),
        ({"client_id": "nobody", "client_secret": "x", "token": "x"}, (401, "invalid_client")),
        ({"token": "x"}, (401, "invalid_client")),
        ({"client_id": CONSOLE, "token": "x"}, (403, "invalid_request")),
        ({**API}, (400, "invalid_request")),
        ({**API, "token": "x", "token_type_hint": "nothing"}, (400, "invalid_request")),
        ({**API, "token": "x", "token_type_hint": ""}, (400, "invalid_request")),
        ({**API, "token": ["x", "y"]}, (400, "invalid_request")),
    ],
)
async def test_invalid_request_is_refused(
    idp: Idp, form: dict[str, object], expected: tuple[int, str]
) -> None:
    answer = await idp.http.post(idp.url("token/introspect"), data=form)
    assert refusal(answer) == expected
    assert "www-authenticate" not in answer.headers
    assert "active" not in answer.json()


async def test_body_that_is_not_a_form_is_refused(idp: Idp) -> None:
    answer = await idp.http.post(idp.url("token/introspect"), json={"token": "x"}, auth=tuple(API.values()))
    assert refusal(answer) == (400, "invalid_request")


async def test_too_large_body_is_refused(idp: Idp) -> None:
    answer = await idp.http.post(
        idp.url("token/introspect"), data={"token": "x" * 300_000}, auth=tuple(API.values())
    )
    assert answer.status_code == 413


async def test_basic_authentication_is_accepted(idp: Idp) -> None:
    token = await idp.user_token()
    answer = await idp.http.post(idp.url("token/introspect"), data={"token": token}, auth=tuple(API.values()))
    assert answer.json()["active"] is True
    wrong = await idp.http.post(
        idp.url("token/introspect"), data={"token": token}, auth=("gatehouse-api", "wrong")
    )
    assert refusal(wrong) == (401, "invalid_client")
