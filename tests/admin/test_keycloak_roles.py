"""Roles at Keycloak: what is asked, how little of it, and what each answer means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from gatehouse.admin.keycloak_roles import MAX_BODY_BYTES, KeycloakRoles
from gatehouse.admin.role_directory import RoleNotApplied
from gatehouse.client import ClientCredentials
from gatehouse.oauth import TokenRequestFailed
from tests.support.issuer import SECRETS, LiveIssuer
from tests.support.provider import Asked, LoopbackRealm, Said

BOB = "00000000-0000-4000-8000-000000000b0b"


class Tokens:
    """A TokenSource that counts, and that can fail."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.dropped: list[str] = []

    async def token(self) -> str:
        if self.failure is not None:
            raise self.failure
        return "canary-token"

    def invalidate(self, token: str) -> None:
        self.dropped.append(token)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
async def roles(provider: LoopbackRealm, tokens: Tokens) -> AsyncIterator[KeycloakRoles]:
    provider.held[BOB] = {"user"}
    async with httpx.AsyncClient() as http:
        yield KeycloakRoles(http, tokens, provider.admin_url)


async def failure_of(roles: KeycloakRoles, subject: str = BOB, role: str = "admin") -> RoleNotApplied:
    with pytest.raises(RoleNotApplied) as caught:
        await roles.apply(subject, role, granted=True)
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


async def test_a_role_is_given_once_and_taken_once_however_often_it_is_asked(
    roles: KeycloakRoles, provider: LoopbackRealm
) -> None:
    for _ in range(2):
        await roles.apply(BOB, "admin", granted=True)
    assert provider.held[BOB] == {"user", "admin"}
    for _ in range(2):
        await roles.apply(BOB, "admin", granted=False)
    assert provider.held[BOB] == {"user"}
    assert provider.writes == [("POST", "admin"), ("DELETE", "admin")]
    assert {a.headers["authorization"] for a in provider.journal} == {"Bearer canary-token"}


async def test_a_role_that_nobody_has_is_taken_without_asking_what_it_is(
    roles: KeycloakRoles, provider: LoopbackRealm
) -> None:
    await roles.apply(BOB, "never-made", granted=False)
    assert [a.method for a in provider.journal] == ["GET"]


async def test_a_role_that_the_provider_does_not_know_cannot_be_given(roles: KeycloakRoles) -> None:
    error = await failure_of(roles, role="never-made")
    assert (error.reason, error.outage, error.uncertain) == ("role_unknown", False, False)


async def test_who_is_gone_gets_no_role_and_has_none(roles: KeycloakRoles) -> None:
    assert (await failure_of(roles, "somebody-else")).reason == "identity_unknown"
    await roles.apply("somebody-else", "admin", granted=False)


@pytest.mark.parametrize("subject", ["", "..", "../../roles", "a/b", "a?b=c", "a b", "ü", "x" * 256])
async def test_a_subject_that_would_change_the_address_is_nobody(
    roles: KeycloakRoles, provider: LoopbackRealm, subject: str
) -> None:
    assert (await failure_of(roles, subject)).reason == "identity_unknown"
    assert provider.journal == []


@pytest.mark.parametrize(
    ("said", "reason", "outage"),
    [
        (Said(404, {"error": "Realm not found."}), "not_found", True),
        (Said(404, b"<html>"), "not_found", True),
        (Said(404, [{"error": "User not found"}]), "not_found", True),
        (Said(401, {"error": "HTTP 401 Unauthorized"}), "unauthorized", True),
        (Said(403, {"error": "HTTP 403 Forbidden"}), "forbidden", False),
        (Said(400, {"error": "unknown_error"}), "refused", False),
        (Said(302, b"", {"location": "http://127.0.0.1:1/"}), "refused", False),
        (Said(429), "unavailable", True),
        (Said(500), "unavailable", True),
        (Said(503, b"away"), "unavailable", True),
        (Said(200, {"not": "a list"}), "malformed_answer", False),
        (Said(200, b"{"), "malformed_answer", False),
        (Said(200, b"[" + b" " * MAX_BODY_BYTES + b"]"), "body_too_large", False),
        (Said(hang_up=True), "broken_off", True),
    ],
)
async def test_an_answer_that_is_no_list_of_roles_has_a_reason(
    roles: KeycloakRoles, provider: LoopbackRealm, said: Said, reason: str, outage: bool
) -> None:
    provider.answer(said)
    error = await failure_of(roles)
    assert (error.reason, error.outage, error.uncertain) == (reason, outage, False)


async def test_entries_of_another_shape_are_no_roles(roles: KeycloakRoles, provider: LoopbackRealm) -> None:
    provider.answer(Said(200, ["admin", {"name": "admin"}, {"name": "admin", "id": 1}]))
    assert (await failure_of(roles)).reason == "role_unknown"


@pytest.mark.parametrize(("said", "reason"), [(Said(503), "unavailable"), (Said(hang_up=True), "broken_off")])
async def test_a_change_without_a_clear_answer_may_still_come_true(
    roles: KeycloakRoles, provider: LoopbackRealm, said: Said, reason: str
) -> None:
    provider.answer(said, "POST")
    error = await failure_of(roles)
    assert (error.reason, error.outage, error.uncertain) == (reason, True, True)


async def test_a_role_that_goes_away_between_two_questions_is_unknown(
    roles: KeycloakRoles, provider: LoopbackRealm
) -> None:
    provider.answer(Said(404, {"error": "Role not found"}), "POST")
    assert (await failure_of(roles)).reason == "role_unknown"


async def test_a_provider_that_is_not_there_is_an_outage(
    roles: KeycloakRoles, provider: LoopbackRealm
) -> None:
    await provider.down()
    error = await failure_of(roles)
    assert (error.reason, error.outage, error.uncertain) == ("unreachable", True, False)


async def test_a_provider_that_does_not_answer_is_given_up(provider: LoopbackRealm, tokens: Tokens) -> None:
    never = asyncio.Event()

    async def fault(_: Asked) -> Said | None:
        await never.wait()
        return None

    provider.held[BOB] = set()
    provider.fault = fault
    async with httpx.AsyncClient(timeout=httpx.Timeout(30, read=0.05)) as http:
        error = await failure_of(KeycloakRoles(http, tokens, provider.admin_url))
    assert (error.reason, error.outage, error.uncertain) == ("timeout", True, False)


async def test_a_refused_token_is_not_used_again(
    roles: KeycloakRoles, provider: LoopbackRealm, tokens: Tokens
) -> None:
    provider.answer(Said(401))
    await failure_of(roles)
    assert tokens.dropped == ["canary-token"]


async def test_without_a_token_nothing_is_asked(
    roles: KeycloakRoles, provider: LoopbackRealm, tokens: Tokens
) -> None:
    tokens.failure = TokenRequestFailed("unauthorized_client")
    error = await failure_of(roles)
    assert (error.reason, error.outage) == ("token_refused", True)
    assert provider.journal == []


@pytest.mark.parametrize("url", ["ftp://id.test/admin/realms/r", "http://id.test/admin/realms/r", "nonsense"])
async def test_an_address_that_must_not_be_asked_is_refused_at_once(tokens: Tokens, url: str) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(ValueError, match="url_"):
            KeycloakRoles(http, tokens, url)


async def test_the_service_account_of_the_realm_file_may_give_roles(issuer: LiveIssuer) -> None:
    own = ClientCredentials(
        http=issuer.http,
        issuer=issuer.issuer,
        client_id="gatehouse-role-sync",
        client_secret=SECRETS["gatehouse-role-sync"],
    )
    url = f"{issuer.running.base_url}/admin/realms/gatehouse"
    roles = KeycloakRoles(issuer.http, own, url)
    await roles.apply(BOB, "admin", granted=True)
    assert (await issuer.user_answer("bob", "admin")).json()["scope"] == "admin"
    await roles.apply(BOB, "admin", granted=False)
    assert (await issuer.user_answer("bob", "admin")).json()["scope"] == ""
    other = ClientCredentials(
        http=issuer.http,
        issuer=issuer.issuer,
        client_id="gatehouse-worker",
        client_secret=SECRETS["gatehouse-worker"],
    )
    assert (await failure_of(KeycloakRoles(issuer.http, other, url))).reason == "forbidden"
    await own.aclose()
    await other.aclose()
