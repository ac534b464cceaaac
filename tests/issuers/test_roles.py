"""Roles that are granted and revoked over the admin API: their effect on tokens, and who may do it."""

# <part admin/>
import httpx
import pytest

from tests.issuers.idp import SCOPES, Idp, claims_of, granted, refusal
from tests.issuers.test_verifiers import ONLINE, Mode, verifiers
from tests.support.realm import token_roles, token_scopes


async def as_client(idp: Idp, client: str, method: str, path: str, body: object = None) -> httpx.Response:
    """Call the admin API with the token of a service account."""
    token = await idp.service_token(client, scope=None)
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{idp.base_url}/admin/realms/{idp.realm}{path}"
    return await idp.http.request(method, url, json=body, headers=headers)


async def test_lost_scope_is_missing_after_the_next_refresh(idp: Idp) -> None:
    first = await idp.user_tokens(scope="read:users delete:users")
    async with idp.without_role("alice", "admin"):
        second = granted(await idp.refresh(first["refresh_token"]))
        assert second["scope"] == "read:users"
    third = granted(await idp.refresh(second["refresh_token"]))
    assert set(third["scope"].split()) == {"read:users", "delete:users"}


async def test_introspection_shows_current_roles_and_the_scope_of_the_token(idp: Idp) -> None:
    token = await idp.user_token("alice", "delete:users")
    async with idp.without_role("alice", "admin"):
        found = await idp.introspect(token)
        assert (found["active"], found["scope"]) == (True, "delete:users")
        assert set(found["realm_access"]["roles"]) == token_roles("alice") - {"admin"}
    assert "admin" in (await idp.introspect(token))["realm_access"]["roles"]


@pytest.mark.parametrize("mode", ONLINE)
async def test_online_check_sees_the_lost_role_and_the_old_scope(idp: Idp, mode: Mode) -> None:
    token = await idp.user_token("alice", "admin")
    async with verifiers(idp, mode) as verifier, idp.without_role("alice", "admin"):
        principal = await verifier.verify(token, online=True)
    assert principal.scopes == {"admin"}
    assert principal.roles == token_roles("alice") - {"admin"}


async def test_role_client_can_grant_and_revoke_roles(idp: Idp) -> None:
    mappings = f"/users/{(await idp.user('bob'))['id']}/role-mappings/realm"
    role = (await as_client(idp, "gatehouse-role-sync", "GET", f"{mappings}/available")).json()
    admin = [r for r in role if r["name"] == "admin"]
    old = await idp.user_token("bob", SCOPES)
    for _ in range(2):
        given = await as_client(idp, "gatehouse-role-sync", "POST", mappings, admin)
        assert (given.status_code, given.content) == (204, b"")
    try:
        assert "admin" in (await idp.user_tokens("bob", SCOPES))["scope"].split()
        found = await idp.introspect(old)
        assert set(found["scope"].split()) == token_scopes("bob")
        assert "admin" in found["realm_access"]["roles"]
    finally:
        for _ in range(2):
            taken = await as_client(idp, "gatehouse-role-sync", "DELETE", mappings, admin)
            assert (taken.status_code, taken.content) == (204, b"")
    assert set((await idp.user_tokens("bob", SCOPES))["scope"].split()) == token_scopes("bob")


async def test_role_client_can_read_users(idp: Idp) -> None:
    found = await as_client(idp, "gatehouse-role-sync", "GET", "/users?username=carol&exact=true")
    (carol,) = found.json()
    again = await as_client(idp, "gatehouse-role-sync", "GET", f"/users/{carol['id']}")
    assert again.json()["username"] == "carol"
    none = await as_client(idp, "gatehouse-role-sync", "GET", "/users?username=nobody&exact=true")
    assert none.json() == []
    gone = await as_client(idp, "gatehouse-role-sync", "GET", "/users/nothing")
    assert gone.status_code == 404


async def test_unknown_role_cannot_be_granted(idp: Idp) -> None:
    mappings = f"/users/{(await idp.user('bob'))['id']}/role-mappings/realm"
    unknown = [{"id": "00000000-0000-4000-8000-000000000000", "name": "nothing"}]
    answer = await as_client(idp, "gatehouse-role-sync", "POST", mappings, unknown)
    assert answer.status_code == 404


async def test_role_client_cannot_change_the_realm(idp: Idp) -> None:
    answer = await as_client(idp, "gatehouse-role-sync", "POST", "/components", {})
    assert refusal(answer) == (403, "HTTP 403 Forbidden")


async def test_tokens_of_the_role_client_are_not_for_the_services(idp: Idp) -> None:
    token = await idp.service_token("gatehouse-role-sync", scope=None)
    assert claims_of(token)["resource_access"] == {"realm-management": {"roles": ["manage-users"]}}
    assert "aud" not in claims_of(token)
    assert await idp.introspect(token) == {"active": False}


async def test_other_clients_cannot_use_the_admin_api(idp: Idp) -> None:
    mappings = f"/users/{(await idp.user('bob'))['id']}/role-mappings/realm"
    for client in ("gatehouse-worker", "gatehouse-admin-service"):
        for method, path in (("GET", "/users"), ("GET", mappings), ("POST", mappings)):
            answer = await as_client(idp, client, method, path, [] if method == "POST" else None)
            assert refusal(answer) == (403, "HTTP 403 Forbidden")


async def test_admin_api_requires_an_active_token(idp: Idp) -> None:
    url = f"{idp.base_url}/admin/realms/{idp.realm}/users"
    assert refusal(await idp.http.get(url)) == (401, "HTTP 401 Unauthorized")
    bad = await idp.http.get(url, headers={"Authorization": "Bearer x"})
    assert refusal(bad) == (401, "HTTP 401 Unauthorized")
    revoked = await idp.service_token("gatehouse-role-sync", scope=None)
    await idp.ask("revoke", revoked, "gatehouse-role-sync")
    answer = await idp.http.get(url, headers={"Authorization": f"Bearer {revoked}"})
    assert refusal(answer) == (401, "HTTP 401 Unauthorized")
