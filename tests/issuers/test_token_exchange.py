"""Token exchange: RFC 8693, as Keycloak's standard token exchange."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gatehouse.client import ClientSecretBasic, OAuthClient, StaticToken, TokenExchange, TokenManager
from tests.issuers.idp import Idp, Json, claims_of, client_of, granted, refusal
from tests.support.issuer import SECRETS

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
TYPE = "urn:ietf:params:oauth:token-type:"
ADMIN = "gatehouse-admin-service"


async def exchange(
    idp: Idp, subject: str, client: str = ADMIN, *, without: str = "", **more: str
) -> httpx.Response:
    """Exchange a token as a client."""
    form = {
        "grant_type": GRANT,
        "client_id": client,
        "subject_token": subject,
        "subject_token_type": f"{TYPE}access_token",
        "scope": "read:users",
    }
    form |= {"client_secret": SECRETS[client]} if client in SECRETS else {}
    return await idp.token(**{k: v for k, v in (form | more).items() if k != without})


@pytest.fixture
async def alice(idp: Idp) -> str:
    """An access token of alice that AdminService may exchange."""
    return await idp.user_token(scope="read:users admin")


async def test_metadata_lists_the_grant(idp: Idp) -> None:
    found = (await idp.http.get(f"{idp.issuer}/.well-known/openid-configuration")).json()
    assert GRANT in found["grant_types_supported"]


async def test_exchanged_token_is_for_the_same_user_and_session_and_another_client(
    idp: Idp, alice: str
) -> None:
    answer = granted(await exchange(idp, alice))
    new, old = claims_of(answer.pop("access_token")), claims_of(alice)
    assert set(old["aud"]) == {"gatehouse-api", ADMIN}
    assert {name: new[name] for name in ("sub", "sid", "acr")} == {
        name: old[name] for name in ("sub", "sid", "acr")
    }
    assert (new["azp"], new["aud"], new["scope"], new["typ"]) == (
        ADMIN,
        "gatehouse-api",
        "read:users",
        "Bearer",
    )
    assert new["realm_access"]["roles"] == ["user"]  # only what the client may pass on
    assert new["jti"] != old["jti"]
    assert "act" not in new
    assert answer == {
        "expires_in": 300,
        "refresh_expires_in": 0,
        "token_type": "Bearer",
        "not-before-policy": 0,
        "session_state": old["sid"],
        "scope": "read:users",
        "issued_token_type": f"{TYPE}access_token",
    }


async def test_exchanged_token_ends_with_the_session_but_not_with_the_subject_token(idp: Idp) -> None:
    tokens = await idp.user_tokens(scope="read:users admin")
    subject = tokens["access_token"]
    new = granted(await exchange(idp, subject))["access_token"]
    assert (await idp.introspect(new))["username"] == "alice"
    await idp.ask("revoke", subject, "gatehouse-console")
    assert await idp.is_active(new)
    assert refusal(await exchange(idp, subject)) == (400, "invalid_request")
    await idp.ask("revoke", tokens["refresh_token"], "gatehouse-console")
    assert not await idp.is_active(new)


async def test_client_must_be_enabled_for_exchange(idp: Idp, alice: str) -> None:
    for client in ("gatehouse-api", "gatehouse-worker", "gatehouse-console"):
        assert refusal(await exchange(idp, alice, client)) == (400, "invalid_request")
    assert refusal(await exchange(idp, alice, client_secret="wrong")) == (401, "unauthorized_client")


async def test_client_must_be_an_audience_of_the_subject_token_or_its_client(idp: Idp) -> None:
    for subject in (await idp.user_token("bob"), await idp.service_token()):
        assert refusal(await exchange(idp, subject)) == (403, "access_denied")
    own = granted(await exchange(idp, await idp.service_token(ADMIN)))
    assert claims_of(own["access_token"])["azp"] == ADMIN
    assert "sid" not in claims_of(own["access_token"])
    again = granted(await exchange(idp, granted(await exchange(idp, own["access_token"]))["access_token"]))
    assert await idp.is_active(again["access_token"])


async def test_service_account_stays_the_subject(idp: Idp) -> None:
    def add_audience(realm: Json) -> None:
        api = next(s for s in realm["clientScopes"] if s["name"] == "gatehouse-audience")
        mapper = api["protocolMappers"][0]
        config = mapper["config"] | {"included.client.audience": ADMIN}
        api["protocolMappers"].append(mapper | {"name": "exchange", "config": config})

    async with idp.realm_like(add_audience) as other:
        worker = await other.service_token()
        new = granted(await exchange(other, worker))["access_token"]
        assert claims_of(new)["sub"] == claims_of(worker)["sub"]
        found = await other.introspect(new)
        assert (found["username"], found["client_id"]) == ("service-account-gatehouse-worker", ADMIN)


async def test_scope_is_limited_by_the_client_not_by_the_subject_token(idp: Idp) -> None:
    """A client has to name a subset of the scopes of the subject token itself."""
    subject = await idp.user_token(scope="admin")
    assert claims_of(granted(await exchange(idp, subject))["access_token"])["scope"] == "read:users"
    assert granted(await exchange(idp, subject, without="scope"))["scope"] == ""
    for scope in ("admin", "nonsense", ""):
        assert refusal(await exchange(idp, subject, scope=scope)) == (400, "invalid_scope")


async def test_audience_must_be_one_that_the_token_would_have(idp: Idp, alice: str) -> None:
    new = granted(await exchange(idp, alice, audience="gatehouse-api"))
    assert claims_of(new["access_token"])["aud"] == "gatehouse-api"
    assert refusal(await exchange(idp, alice, audience="gatehouse-worker")) == (400, "invalid_request")
    assert refusal(await exchange(idp, alice, audience="nobody")) == (400, "invalid_client")


@pytest.mark.parametrize(
    "form",
    [
        {"without": "subject_token"},
        {"without": "subject_token_type"},
        {"subject_token": ""},
        {"subject_token": "nonsense"},
        {"subject_token_type": f"{TYPE}jwt"},
        {"subject_token_type": f"{TYPE}id_token"},
        {"requested_token_type": f"{TYPE}refresh_token"},
        {"requested_token_type": "nonsense"},
    ],
    ids=str,
)
async def test_malformed_exchange_is_refused(idp: Idp, alice: str, form: dict[str, Any]) -> None:
    assert refusal(await exchange(idp, alice, **form)) == (400, "invalid_request")


async def test_only_access_tokens_can_be_exchanged(idp: Idp) -> None:
    tokens = await idp.user_tokens(scope="openid read:users admin")
    for name in ("refresh_token", "id_token"):
        assert refusal(await exchange(idp, tokens[name])) == (400, "invalid_request")


async def test_disabled_user_cannot_be_acted_for(idp: Idp, alice: str) -> None:
    async with idp.disabled("alice"):
        assert refusal(await exchange(idp, alice)) == (400, "invalid_request")


async def test_actor_token_is_ignored(idp: Idp, alice: str) -> None:
    answer = granted(await exchange(idp, alice, actor_token=alice, actor_token_type=f"{TYPE}access_token"))
    assert "act" not in claims_of(answer["access_token"])


async def test_gatehouse_client_exchanges_tokens(idp: Idp, alice: str) -> None:
    client = OAuthClient(idp.http, ADMIN, ClientSecretBasic(SECRETS[ADMIN]), issuer=idp.issuer)
    token = await TokenManager(TokenExchange(client, StaticToken(alice), "read:users")).token()
    assert claims_of(token)["azp"] == ADMIN


async def test_exchanging_client_may_be_disabled(idp: Idp) -> None:
    def disable(realm: Json) -> None:
        client_of(realm, ADMIN)["enabled"] = False

    async with idp.realm_like(disable) as other:
        subject = await other.user_token(scope="read:users admin")
        assert refusal(await exchange(other, subject)) == (401, "invalid_client")
