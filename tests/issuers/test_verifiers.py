"""Our verifier in all its modes, with tokens of the issuer."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from gatehouse.client import ClientSecretBasic, ExchangedTokens, OAuthClient
from gatehouse.oauth import InvalidToken
from gatehouse.settings import IssuerSettings
from tests.issuers.idp import (
    CONSOLE,
    SCOPES,
    Browser,
    Idp,
    Json,
    claims_of,
    client_of,
    granted,
    kid_of,
    sent_back,
)
from tests.support.issuer import SECRETS
from tests.support.oauth_fixtures import Verifier
from tests.support.realm import token_roles, token_scopes

Mode = Literal["jwt", "introspection", "hybrid"]
MODES: tuple[Mode, ...] = ("jwt", "introspection", "hybrid")
ONLINE: tuple[Mode, ...] = ("introspection", "hybrid")


@asynccontextmanager
async def verifiers(idp: Idp, mode: Mode) -> AsyncIterator[Verifier]:
    config = IssuerSettings(
        issuer=idp.issuer,
        audience="gatehouse-api",
        provider="keycloak",
        mode=mode,
        client_id="gatehouse-api",
        client_secret=SECRETS["gatehouse-api"],
        revocation_budget_seconds=0,
    )
    # The time budget of a call is not under test here, and the machine may be slow.
    made = Verifier([config], http=idp.http, answer_seconds=60.0)
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()


async def reason(verifier: Verifier, token: str) -> str:
    with pytest.raises(InvalidToken) as refused:
        await verifier.verify(token)
    return refused.value.reason


@pytest.mark.parametrize("mode", MODES)
async def test_exchanged_token_is_of_the_caller_with_the_requested_scopes(idp: Idp, mode: Mode) -> None:
    name = "gatehouse-admin-service"
    client = OAuthClient(idp.http, name, ClientSecretBasic(SECRETS[name]), issuer=idp.issuer)
    subject = await idp.user_token("alice", SCOPES)
    token = await ExchangedTokens(client, "read:users").source(subject, math.inf).token()
    async with verifiers(idp, mode) as verifier:
        found = await verifier.verify(token)
    assert (found.subject, found.client_id) == (claims_of(subject)["sub"], name)
    assert found.scopes == {"read:users"}
    assert set(found.roles) == {"user"}
    assert found.actor is None


@pytest.mark.parametrize("mode", MODES)
async def test_token_of_a_user_becomes_a_principal(idp: Idp, mode: Mode) -> None:
    async with verifiers(idp, mode) as verifier:
        alice = await verifier.verify(await idp.user_token("alice", SCOPES))
        bob = await verifier.verify(await idp.user_token("bob", SCOPES))
        carol = await verifier.verify(await idp.user_token("carol", SCOPES))
    assert alice.issuer == idp.issuer
    assert alice.subject == "00000000-0000-4000-8000-0000000a11ce"
    assert alice.client_id == CONSOLE
    assert alice.scopes == set(SCOPES.split())
    assert alice.roles == token_roles("alice")
    assert alice.has_client_role("gatehouse-api", "auditor")
    assert bob.scopes == token_scopes("bob")
    assert bob.roles == token_roles("bob")
    assert (carol.scopes, carol.roles) == (frozenset(), frozenset())


@pytest.mark.parametrize("mode", ONLINE)
async def test_claims_about_the_user_come_from_introspection(idp: Idp, mode: Mode) -> None:
    token = await idp.user_token("alice")
    assert "email" not in claims_of(token)
    async with verifiers(idp, mode) as verifier:
        claims = (await verifier.verify(token)).claims
    assert (claims["preferred_username"], claims["name"]) == ("alice", "Alice Example")
    assert (claims["email"], claims["email_verified"]) == ("alice@example.test", True)


@pytest.mark.parametrize("mode", MODES)
async def test_token_of_a_service_account_becomes_a_principal(idp: Idp, mode: Mode) -> None:
    async with verifiers(idp, mode) as verifier:
        worker = await verifier.verify(await idp.service_token(scope="read:users write:users"))
        service = await verifier.verify(await idp.service_token("gatehouse-admin-service"))
    assert worker.client_id == "gatehouse-worker"
    assert worker.subject
    assert worker.scopes == {"read:users", "write:users"}
    assert worker.roles == {"user", "editor"}
    assert service.scopes == {"read:users"}
    assert service.roles == {"user"}


@pytest.mark.parametrize("mode", MODES)
async def test_token_with_another_audience_is_refused(idp: Idp, mode: Mode) -> None:
    async with verifiers(idp, mode) as verifier:
        found = await reason(verifier, await idp.service_token("gatehouse-elsewhere"))
    assert found == ("token_inactive" if mode == "introspection" else "audience_mismatch")


@pytest.mark.parametrize("mode", MODES)
async def test_id_token_is_refused(idp: Idp, mode: Mode) -> None:
    def api_with_password(realm: Json) -> None:
        client_of(realm, "gatehouse-api")["directAccessGrantsEnabled"] = True

    # The worst case: an ID token of the client that introspects, which Keycloak reports as active.
    async with idp.realm_like(api_with_password) as other, verifiers(other, mode) as verifier:
        tokens = granted(
            await other.password_answer(
                client_id="gatehouse-api", client_secret=SECRETS["gatehouse-api"], scope="openid"
            )
        )
        assert await reason(verifier, tokens["id_token"]) == "token_type_mismatch"


@pytest.mark.parametrize("mode", MODES)
async def test_refresh_token_is_refused(idp: Idp, mode: Mode) -> None:
    tokens = await idp.user_tokens()
    async with verifiers(idp, mode) as verifier:
        assert await reason(verifier, tokens["refresh_token"])


@pytest.mark.parametrize("mode", ONLINE)
async def test_revoked_token_is_refused(idp: Idp, mode: Mode) -> None:
    token = await idp.service_token()
    async with verifiers(idp, mode) as verifier:
        await verifier.verify(token)
        await idp.ask("revoke", token, "gatehouse-worker")
        assert await reason(verifier, token) == "token_inactive"


@pytest.mark.parametrize("mode", ONLINE)
async def test_token_of_a_disabled_user_is_refused(idp: Idp, mode: Mode) -> None:
    token = await idp.user_token("carol")
    async with verifiers(idp, mode) as verifier:
        await verifier.verify(token)
        async with idp.disabled("carol"):
            assert await reason(verifier, token) == "token_inactive"


@pytest.mark.parametrize("mode", MODES)
async def test_acr_of_the_principal_is_that_of_the_token(idp: Idp, browser: Browser, mode: Mode) -> None:
    token = (await browser.tokens())["access_token"]
    granted(await browser.exchange(sent_back(await browser.open())["code"]))
    async with verifiers(idp, mode) as verifier:
        assert (await verifier.verify(token)).acr == "1"


@pytest.mark.parametrize("mode", MODES)
async def test_tampered_token_is_refused(idp: Idp, mode: Mode) -> None:
    head, payload, signature = (await idp.user_token()).split(".")
    other = (await idp.user_token("bob")).split(".")[1]
    assert other != payload
    async with verifiers(idp, mode) as verifier:
        found = await reason(verifier, f"{head}.{other}.{signature}")
    assert found == ("token_inactive" if mode == "introspection" else "signature_mismatch")


@pytest.mark.parametrize("mode", MODES)
async def test_token_signed_by_a_new_key_is_accepted(idp: Idp, mode: Mode) -> None:
    async with verifiers(idp, mode) as verifier:
        old = await idp.service_token()
        await verifier.verify(old)
        async with idp.signing_key():
            new = await idp.service_token()
            assert kid_of(new) != kid_of(old)
            await verifier.verify(new)
            await verifier.verify(old)


async def test_rs256_token_is_accepted(idp: Idp) -> None:
    def worker_signs_by_rsa(realm: Json) -> None:
        worker = client_of(realm, "gatehouse-worker")
        worker["attributes"] = {"access.token.signed.response.alg": "RS256"}

    async with idp.realm_like(worker_signs_by_rsa) as other, verifiers(other, "hybrid") as verifier:
        token = await other.service_token()
        assert (await other.jwks())[kid_of(token)]["alg"] == "RS256"
        assert (await verifier.verify(token)).client_id == "gatehouse-worker"
