"""Scopes that need a role, audiences, and roles in tokens."""

import pytest

from tests.issuers.idp import SCOPES, Browser, Idp, Json, claims_of, client_of, granted
from tests.support.realm import token_scopes


@pytest.mark.parametrize(
    ("user", "scopes"),
    [
        ("alice", set(SCOPES.split())),
        ("bob", token_scopes("bob")),
        ("carol", set()),
    ],
)
async def test_scope_is_left_out_if_the_user_lacks_its_role(idp: Idp, user: str, scopes: set[str]) -> None:
    found = await idp.user_tokens(user, SCOPES)
    assert set(found["scope"].split()) == scopes
    assert set(claims_of(found["access_token"])["scope"].split()) == scopes
    assert set((await idp.introspect(found["access_token"])).get("scope", "").split()) == scopes


async def test_bob_never_gets_admin_in_any_flow(idp: Idp, browser: Browser) -> None:
    allowed = token_scopes("bob")
    assert not allowed & {"write:users", "delete:users", "admin", "manage:roles"}
    tokens = await browser.tokens("bob", scope=f"openid {SCOPES}")
    assert set(tokens["scope"].split()) == {"openid"} | allowed
    refreshed = granted(await idp.refresh(tokens["refresh_token"]))
    assert set(refreshed["scope"].split()) == {"openid"} | allowed
    asked = granted(await idp.refresh(refreshed["refresh_token"], scope="openid read:users"))
    assert set(asked["scope"].split()) == {"openid", "read:users"}


@pytest.mark.parametrize(
    ("client", "scopes", "roles"),
    [
        ("gatehouse-worker", {"read:users", "write:users"}, {"user", "editor"}),
        ("gatehouse-admin-service", {"read:users"}, {"user"}),
        ("gatehouse-elsewhere", {"read:users"}, {"user"}),
        ("gatehouse-brief", {"read:users"}, {"user"}),
    ],
)
async def test_service_account_gets_its_scopes_and_roles(
    idp: Idp, client: str, scopes: set[str], roles: set[str]
) -> None:
    claims = claims_of(await idp.service_token(client, " ".join(sorted(scopes))))
    assert set(claims["scope"].split()) == scopes
    assert set(claims["realm_access"]["roles"]) == roles


async def test_scope_that_needs_a_composite_role_is_granted_for_a_part_of_it(idp: Idp) -> None:
    def admin_contains_user(realm: Json) -> None:
        admin = next(r for r in realm["roles"]["realm"] if r["name"] == "admin")
        admin["composites"] = {"realm": ["user"]}

    async with idp.realm_like(admin_contains_user) as other:
        found = await other.user_tokens("bob", SCOPES)
        assert "admin" in found["scope"].split()
        assert set(claims_of(found["access_token"])["realm_access"]["roles"]) == {"user"}


async def test_composite_role_grants_the_scopes_of_its_parts(idp: Idp) -> None:
    def bob_is_operator(realm: Json) -> None:
        realm["roles"]["realm"].append({"name": "operator", "composites": {"realm": ["user", "editor"]}})
        bob = next(u for u in realm["users"] if u["username"] == "bob")
        bob["realmRoles"] = ["operator"]

    async with idp.realm_like(bob_is_operator) as other:
        found = await other.user_tokens("bob", SCOPES)
        assert {"read:users", "write:users"} <= set(found["scope"].split()) < set(SCOPES.split())
        assert set(claims_of(found["access_token"])["realm_access"]["roles"]) == {"user", "editor"}


async def test_token_has_only_the_roles_in_the_scope_of_its_client(idp: Idp) -> None:
    def console_shows_users_only(realm: Json) -> None:
        for mapping in realm["scopeMappings"]:
            if mapping.get("client") == "gatehouse-console":
                mapping["roles"] = ["user"]

    async with idp.realm_like(console_shows_users_only) as other:
        claims = claims_of(await other.user_token("alice", "read:users"))
        assert set(claims["realm_access"]["roles"]) == {"user"}
        # A granted scope also adds the roles that it needs.
        claims = claims_of(await other.user_token("alice", "read:users admin"))
        assert set(claims["realm_access"]["roles"]) == {"user", "admin"}


async def test_several_audiences_are_a_list(idp: Idp) -> None:
    def second_audience(realm: Json) -> None:
        scope = next(s for s in realm["clientScopes"] if s["name"] == "gatehouse-audience")
        mapper = scope["protocolMappers"][0]
        scope["protocolMappers"].append(
            {
                **mapper,
                "name": "second",
                "config": {
                    "included.custom.audience": "https://elsewhere.example.test",
                    "access.token.claim": "true",
                },
            }
        )

    async with idp.realm_like(second_audience) as other:
        token = await other.user_token()
        assert set(claims_of(token)["aud"]) == {"gatehouse-api", "https://elsewhere.example.test"}
        assert await other.is_active(token)


async def test_header_type_can_be_at_jwt(idp: Idp) -> None:
    import jwt

    def worker_has_it(realm: Json) -> None:
        worker = client_of(realm, "gatehouse-worker")
        worker["attributes"] = {"access.token.header.type.rfc9068": "true"}

    assert jwt.get_unverified_header(await idp.service_token())["typ"] == "JWT"
    async with idp.realm_like(worker_has_it) as other:
        token = await other.service_token()
        assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
        assert claims_of(token)["typ"] == "Bearer"
