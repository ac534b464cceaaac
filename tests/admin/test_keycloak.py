"""The role directory of Keycloak: its requests, and what each response means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from gatehouse.admin.keycloak import MAX_BODY_BYTES, KeycloakRoleDirectory
from gatehouse.admin.role_directory import RoleUpdateFailed
from gatehouse.client import ClientCredentials, ClientSecretBasic, OAuthClient, TokenManager
from gatehouse.oauth import TokenRequestFailed
from tests.support.issuer import SECRETS, LiveIssuer
from tests.support.keycloak_admin import FakeKeycloak
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_fixtures import tls_context

BOB = "00000000-0000-4000-8000-000000000b0b"


class Tokens:
    """A TokenSource that can fail and keeps the tokens that were invalidated."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.invalidated: list[str] = []

    async def token(self) -> str:
        if self.error is not None:
            raise self.error
        return "canary-token"

    def invalidate(self, token: str) -> None:
        self.invalidated.append(token)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
async def directory(keycloak: FakeKeycloak, tokens: Tokens) -> AsyncIterator[KeycloakRoleDirectory]:
    keycloak.user_roles[BOB] = {"user"}
    async with httpx.AsyncClient(verify=tls_context()) as http:
        yield KeycloakRoleDirectory(http, tokens, keycloak.base_url)


async def grant_fails(
    directory: KeycloakRoleDirectory, subject: str = BOB, role: str = "admin"
) -> RoleUpdateFailed:
    """Return the error of a failed grant, which must not hold the token."""
    with pytest.raises(RoleUpdateFailed) as caught:
        await directory.set_role(subject, role, granted=True)
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


async def test_repeated_changes_are_written_once(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak
) -> None:
    for _ in range(2):
        await directory.set_role(BOB, "admin", granted=True)
    assert keycloak.user_roles[BOB] == {"user", "admin"}
    for _ in range(2):
        await directory.set_role(BOB, "admin", granted=False)
    assert keycloak.user_roles[BOB] == {"user"}
    assert keycloak.writes == [("POST", "admin"), ("DELETE", "admin")]
    assert {r.headers["authorization"] for r in keycloak.requests} == {"Bearer canary-token"}
    assert {r.headers["accept-encoding"] for r in keycloak.requests} == {"identity"}


async def test_revoking_an_unknown_role_needs_one_read(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak
) -> None:
    await directory.set_role(BOB, "unknown", granted=False)
    assert [request.method for request in keycloak.requests] == ["GET"]


async def test_granting_an_unknown_role_fails(directory: KeycloakRoleDirectory) -> None:
    error = await grant_fails(directory, role="unknown")
    assert (error.reason, error.outage, error.uncertain) == ("role_unknown", False, False)


async def test_deleted_user_gets_no_role_and_has_none(directory: KeycloakRoleDirectory) -> None:
    assert (await grant_fails(directory, "deleted")).reason == "identity_unknown"
    await directory.set_role("deleted", "admin", granted=False)


@pytest.mark.parametrize("subject", ["", "..", "../../roles", "a/b", "a?b=c", "a b", "ü", "x" * 256])
async def test_subject_that_would_change_the_url_is_unknown(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak, subject: str
) -> None:
    assert (await grant_fails(directory, subject)).reason == "identity_unknown"
    assert keycloak.requests == []


@pytest.mark.parametrize(
    ("response", "reason", "outage"),
    [
        (Reply({"error": "Realm not found."}, 404), "not_found", True),
        (Reply(b"<html>", 404), "not_found", True),
        (Reply([{"error": "User not found"}], 404), "not_found", True),
        (Reply({"error": "HTTP 401 Unauthorized"}, 401), "unauthorized", True),
        (Reply({"error": "HTTP 403 Forbidden"}, 403), "forbidden", False),
        (Reply({"error": "unknown_error"}, 400), "refused", False),
        (Reply(b"", 302, {"location": "http://127.0.0.1:1/"}), "refused", False),
        (Reply(status=429), "unavailable", True),
        (Reply(status=500), "unavailable", True),
        (Reply(b"away", 503), "unavailable", True),
        (Reply({"not": "a list"}, 200), "malformed_response", False),
        (Reply(b"{", 200), "malformed_response", False),
        (Reply(b"[" + b" " * MAX_BODY_BYTES + b"]", 200), "body_too_large", False),
        (Reply(hang_up=True), "unreachable", True),
    ],
)
async def test_response_other_than_a_list_of_roles_has_a_reason(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak, response: Reply, reason: str, outage: bool
) -> None:
    keycloak.respond_with(response)
    error = await grant_fails(directory)
    assert (error.reason, error.outage, error.uncertain) == (reason, outage, False)


async def test_malformed_entries_of_a_list_are_ignored(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak
) -> None:
    keycloak.respond_with(Reply(["admin", {"name": "admin"}, {"name": "admin", "id": 1}]))
    assert (await grant_fails(directory)).reason == "role_unknown"


@pytest.mark.parametrize(
    ("response", "reason"), [(Reply(status=503), "unavailable"), (Reply(hang_up=True), "unreachable")]
)
async def test_write_without_a_definite_response_is_uncertain(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak, response: Reply, reason: str
) -> None:
    keycloak.respond_with(response, "POST")
    error = await grant_fails(directory)
    assert (error.reason, error.outage, error.uncertain) == (reason, True, True)


async def test_role_that_is_deleted_before_the_write_is_unknown(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak
) -> None:
    keycloak.respond_with(Reply({"error": "Role not found"}, 404), "POST")
    assert (await grant_fails(directory)).reason == "role_unknown"


async def test_stopped_provider_is_an_outage(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak
) -> None:
    await keycloak.stop()
    error = await grant_fails(directory)
    assert (error.reason, error.outage, error.uncertain) == ("unreachable", True, False)


async def test_write_that_could_not_be_sent_is_certain(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak
) -> None:
    async def stop_after_last_read(request: Request) -> Reply | None:
        if not request.path.endswith("available"):
            return None
        keycloak.stop_listening()
        return Reply([{"id": "id-of-admin", "name": "admin"}], 200, {"connection": "close"})

    keycloak.override = stop_after_last_read
    error = await grant_fails(directory)
    assert (error.reason, error.outage, error.uncertain) == ("unreachable", True, False)


async def test_provider_that_does_not_respond_times_out(keycloak: FakeKeycloak, tokens: Tokens) -> None:
    async def hang(_: Request) -> Reply | None:
        await asyncio.Event().wait()
        return None

    keycloak.user_roles[BOB] = set()
    keycloak.override = hang
    async with httpx.AsyncClient(verify=tls_context(), timeout=httpx.Timeout(30, read=0.05)) as http:
        error = await grant_fails(KeycloakRoleDirectory(http, tokens, keycloak.base_url))
    assert (error.reason, error.outage, error.uncertain) == ("timeout", True, False)


async def test_rejected_token_is_invalidated(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak, tokens: Tokens
) -> None:
    keycloak.respond_with(Reply(status=401))
    await grant_fails(directory)
    assert tokens.invalidated == ["canary-token"]


async def test_no_request_is_sent_without_a_token(
    directory: KeycloakRoleDirectory, keycloak: FakeKeycloak, tokens: Tokens
) -> None:
    tokens.error = TokenRequestFailed("unauthorized_client")
    error = await grant_fails(directory)
    assert (error.reason, error.outage) == ("token_refused", True)
    assert keycloak.requests == []


@pytest.mark.parametrize("url", ["ftp://id.test/admin/realms/r", "http://id.test/admin/realms/r", "nonsense"])
async def test_unsafe_url_is_rejected(tokens: Tokens, url: str) -> None:
    async with httpx.AsyncClient(verify=tls_context()) as http:
        with pytest.raises(ValueError, match="url_"):
            KeycloakRoleDirectory(http, tokens, url)


async def test_service_account_of_the_realm_file_may_change_roles(issuer: LiveIssuer) -> None:
    def client(name: str) -> TokenManager:
        auth = ClientSecretBasic(SECRETS[name])
        return TokenManager(ClientCredentials(OAuthClient(issuer.http, name, auth, issuer=issuer.issuer)))

    async def scope_of_bob() -> str:
        return str((await issuer.user_answer("bob", "admin")).json()["scope"])

    url = f"{issuer.running.base_url}/admin/realms/gatehouse"
    own, other = client("gatehouse-role-sync"), client("gatehouse-worker")
    directory = KeycloakRoleDirectory(issuer.http, own, url)
    await directory.set_role(BOB, "admin", granted=True)
    assert await scope_of_bob() == "admin"
    await directory.set_role(BOB, "admin", granted=False)
    assert await scope_of_bob() == ""
    assert (await grant_fails(KeycloakRoleDirectory(issuer.http, other, url))).reason == "forbidden"
    await own.aclose()
    await other.aclose()
