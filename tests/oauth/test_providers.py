"""Principals from the claims that Keycloak, Auth0 and Okta document, and claims that give no rights."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.oauth import InvalidToken, Principal, VerifiedClaims
from gatehouse.oauth._claim_reader import ClaimReader
from gatehouse.settings import PRESETS, IssuerSettings, ProviderName
from tests.support.oauth_fixtures import MakeVerifier, config
from tests.support.oauth_issuers import AUDIENCE, EPOCH, LoopbackIssuer

NOW = int(EPOCH)
TIMES = {"iat": NOW, "exp": NOW + 300}

# Keycloak 26: access token of the authorization code flow, its introspection, and a service account.
KEYCLOAK = {
    **TIMES,
    "auth_time": NOW - 10,
    "jti": "onrtac:1f2e",
    "aud": [AUDIENCE, "account"],
    "sub": "00000000-0000-4000-8000-0000000a11ce",
    "typ": "Bearer",
    "azp": "gatehouse-console",
    "sid": "3a0c",
    "acr": "mfa",
    "scope": "openid read:users  write:users",
    "realm_access": {"roles": ["user", "admin"]},
    "resource_access": {
        "gatehouse-api": {"roles": ["auditor"]},
        "account": {"roles": ["view-profile", "manage-account"]},
    },
    "email": "alice@a.test",
}
KEYCLOAK_INTROSPECTED = KEYCLOAK | {
    "client_id": "gatehouse-console",
    "username": "alice",
    "token_type": "Bearer",
}
KEYCLOAK_SERVICE = {
    **TIMES,
    "aud": AUDIENCE,
    "sub": "5e17",
    "typ": "Bearer",
    "azp": "gatehouse-worker",
    "acr": "1",
    "scope": "",
}

# Auth0: API with RBAC and "Add Permissions in the Access Token", in both token profiles.
AUTH0 = {
    **TIMES,
    "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    "aud": [AUDIENCE, "https://tenant.eu.auth0.com/userinfo"],
    "azp": "my_client_id",
    "scope": "openid profile read:users",
    "permissions": ["read:users", "delete:users"],
    "https://gatehouse.test/roles": ["admin"],
}
AUTH0_RFC9068 = {
    **TIMES,
    "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    "aud": AUDIENCE,
    "client_id": "my_client_id",
    "jti": "a1",
    "scope": "read:users",
    "permissions": ["read:users"],
}
AUTH0_MACHINE = {
    **TIMES,
    "sub": "my_client_id@clients",
    "aud": AUDIENCE,
    "azp": "my_client_id",
    "gty": "client-credentials",
}

# Okta: access token of a custom authorization server with a groups claim, and its introspection.
OKTA = {
    **TIMES,
    "ver": 1,
    "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
    "aud": AUDIENCE,
    "cid": "0oabv6kx4qq6h1U5l0h7",
    "uid": "00ujmkLgagxeRrAg20g3",
    "scp": ["openid", "read:users"],
    "auth_time": NOW - 20,
    "sub": "john.doe@example.com",
    "groups": ["Everyone", "Admins"],
}
OKTA_INTROSPECTED = {
    **TIMES,
    "token_type": "Bearer",
    "scope": "openid read:users",
    "client_id": "0oabv6kx4qq6h1U5l0h7",
    "username": "john.doe@example.com",
    "sub": "john.doe@example.com",
    "aud": AUDIENCE,
    "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
    "uid": "00ujmkLgagxeRrAg20g3",
}


def reader(name: ProviderName, **changes: Any) -> ClaimReader:
    """Return the reader of claims of a provider, with `changes` of its settings."""
    layout = PRESETS[name]
    values: dict[str, Any] = {
        "issuer": "https://a.test",
        "audience": AUDIENCE,
        "provider": name,
        "mode": "jwt",
        "accept_id_tokens": layout.only_id_tokens,
    }
    return ClaimReader(IssuerSettings(**(values | changes)))


def principal(name: ProviderName, claims: dict[str, Any], **changes: Any) -> Principal:
    """Return the principal that claims describe."""
    return reader(name, **changes).principal("https://a.test", VerifiedClaims(claims))


async def signed(
    idp: LoopbackIssuer,
    make: MakeVerifier,
    name: ProviderName,
    claims: dict[str, Any],
    kind: str = "JWT",
    **changes: Any,
) -> Principal:
    """Return the principal of a signed token with `claims`."""
    verifier = await make(config(idp, provider=name, **changes))
    header = {"alg": "ES256", "kid": idp.keys[0].kid, "typ": kind}
    return await verifier.verify(idp.keys[0].sign({"iss": idp.issuer} | claims, header))


async def introspected(
    idp: LoopbackIssuer, make: MakeVerifier, name: ProviderName, claims: dict[str, Any]
) -> Principal:
    """Return the principal of an opaque token that introspects with `claims`."""
    verifier = await make(config(idp, "introspection", provider=name))
    idp.activate("opaque", {"iss": idp.issuer} | claims)
    return await verifier.verify("opaque")


async def test_keycloak_realm_roles_and_client_roles(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    caller = await signed(idp, make_verifier, "keycloak", KEYCLOAK)

    assert (caller.subject, caller.client_id) == ("00000000-0000-4000-8000-0000000a11ce", "gatehouse-console")
    assert caller.scopes == {"openid", "read:users", "write:users"}
    assert caller.roles == {"user", "admin"}
    assert caller.client_roles == {
        "gatehouse-api": {"auditor"},
        "account": {"view-profile", "manage-account"},
    }
    assert caller.permissions == frozenset()
    assert (caller.acr, caller.auth_time, caller.expires_at) == ("mfa", NOW - 10, NOW + 360)
    assert caller.has_scope("write:users")
    assert not caller.has_scope("delete:users")
    assert not caller.has_scope("read")
    assert caller.has_role("admin")
    assert not caller.has_role("auditor")
    assert caller.has_client_role("gatehouse-api", "auditor")
    assert not caller.has_client_role("account", "auditor")
    assert not caller.has_client_role("elsewhere", "auditor")
    assert caller.has_permission("read:users")
    assert not caller.has_permission("admin")


async def test_keycloak_introspection_yields_the_same_principal_without_login(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """`acr` and `auth_time` are left out, because introspection returns those of the current session."""
    caller = await introspected(idp, make_verifier, "keycloak", KEYCLOAK_INTROSPECTED)

    assert (caller.subject, caller.client_id) == ("00000000-0000-4000-8000-0000000a11ce", "gatehouse-console")
    assert caller.scopes == {"openid", "read:users", "write:users"}
    assert caller.roles == {"user", "admin"}
    assert caller.has_client_role("gatehouse-api", "auditor")
    assert (caller.acr, caller.auth_time) == ("", None)


async def test_keycloak_service_account_without_scopes_and_roles(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    caller = await signed(idp, make_verifier, "keycloak", KEYCLOAK_SERVICE)

    assert (caller.subject, caller.client_id) == ("5e17", "gatehouse-worker")
    assert (caller.scopes, caller.roles, dict(caller.client_roles)) == (frozenset(), frozenset(), {})
    assert caller.auth_time is None


async def test_auth0_permissions_count_as_scopes(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    caller = await signed(idp, make_verifier, "auth0", AUTH0, role_claims="https://gatehouse.test/roles[]")

    assert (caller.subject, caller.client_id) == ("auth0|5f7c8ec7c33c6c004bbafe82", "my_client_id")
    assert caller.scopes == {"openid", "profile", "read:users", "delete:users"}
    assert caller.permissions == {"read:users", "delete:users"}
    assert caller.roles == {"admin"}
    assert caller.has_permission("delete:users")
    assert caller.has_scope("delete:users")
    assert not caller.has_permission("write:users")
    assert caller.has_role("admin")


async def test_auth0_rfc_9068_token(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    caller = await signed(idp, make_verifier, "auth0", AUTH0_RFC9068, kind="at+jwt")

    assert caller.client_id == "my_client_id"
    assert caller.scopes == {"read:users"}
    assert caller.roles == frozenset()


async def test_auth0_machine_to_machine_token_without_scope(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    caller = await signed(idp, make_verifier, "auth0", AUTH0_MACHINE)

    assert (caller.subject, caller.client_id) == ("my_client_id@clients", "my_client_id")
    assert caller.scopes == frozenset()


async def test_okta_scp_and_groups(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    caller = await signed(idp, make_verifier, "okta", OKTA)

    assert (caller.subject, caller.client_id) == ("john.doe@example.com", "0oabv6kx4qq6h1U5l0h7")
    assert caller.scopes == {"openid", "read:users"}
    assert caller.roles == {"Everyone", "Admins"}
    assert caller.auth_time == NOW - 20
    assert caller.has_role("Admins")
    assert caller.has_scope("read:users")
    assert not caller.has_permission("Admins")


async def test_okta_introspection_returns_scope_as_a_string(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    caller = await introspected(idp, make_verifier, "okta", OKTA_INTROSPECTED)

    assert (caller.subject, caller.client_id) == ("john.doe@example.com", "0oabv6kx4qq6h1U5l0h7")
    assert caller.scopes == {"openid", "read:users"}
    assert caller.roles == frozenset()


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("keycloak", KEYCLOAK | {"typ": "ID"}),
        ("keycloak", KEYCLOAK | {"typ": "Refresh"}),
        ("keycloak", KEYCLOAK | {"typ": "Offline"}),
        ("keycloak", KEYCLOAK | {"typ": "Logout"}),
        ("keycloak", KEYCLOAK | {"typ": "DPoP"}),
        ("keycloak", KEYCLOAK | {"typ": "bearer"}),
        ("keycloak", {k: v for k, v in KEYCLOAK.items() if k != "typ"}),
        ("auth0", {**TIMES, "sub": "auth0|1", "aud": AUDIENCE, "nonce": "n", "at_hash": "h", "sid": "s"}),
        ("auth0", {**TIMES, "sub": "auth0|1", "aud": AUDIENCE, "sid": "s", "events": {"logout": {}}}),
        (
            "okta",
            {**TIMES, "ver": 1, "sub": "00u", "aud": AUDIENCE, "idp": "00o", "amr": ["pwd"], "jti": "ID"},
        ),
        ("okta", {**TIMES, "sub": "00u", "aud": AUDIENCE, "jti": "r", "events": {"logout": {}}}),
    ],
)
async def test_token_of_another_type_is_refused(
    name: ProviderName, claims: dict[str, Any], idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    with pytest.raises(InvalidToken, match="token_type_mismatch"):
        await signed(idp, make_verifier, name, claims)
    if "introspection" in PRESETS[name].modes:
        with pytest.raises(InvalidToken, match="token_type_mismatch"):
            await introspected(idp, make_verifier, name, claims)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (..., "subject_missing"),
        ("", "subject_missing"),
        (None, "subject_missing"),
        (7, "subject_missing"),
        (["a"], "subject_missing"),
        ("a" * 256, "subject_malformed"),
        ("a\0b", "subject_malformed"),
        ("a\nb", "subject_malformed"),
        ("\x1b[31ma", "subject_malformed"),
        ("a\u202eb", "subject_malformed"),
    ],
)
def test_missing_or_malformed_subject_is_refused(name: ProviderName, subject: Any, reason: str) -> None:
    claims = {"exp": 1} | ({} if subject is ... else {"sub": subject})

    with pytest.raises(InvalidToken, match=reason):
        principal(name, claims)


@pytest.mark.parametrize("subject", ["a" * 255, "auth0|1", "user@a.test", "jürgen", "a b"])
def test_valid_subject_is_accepted(subject: str) -> None:
    assert principal("keycloak", {"exp": 1, "sub": subject}).subject == subject


@pytest.mark.parametrize(
    ("name", "claims", "included"),
    [
        ("keycloak", {}, True),
        ("auth0", {"scope": "a"}, False),
        ("auth0", {"permissions": []}, True),
        ("auth0", {"https://a.test/roles": [], "roles": []}, False),
        ("okta", {"scope": "a"}, False),
        ("okta", {"groups": []}, True),
    ],
)
def test_response_that_lists_roles(name: ProviderName, claims: dict[str, Any], included: bool) -> None:
    assert reader(name).lists_roles(VerifiedClaims(claims)) is included


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab é:", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_PATHS = [path for layout in PRESETS.values() for path in (*layout.scope_claims, *layout.role_claims)]
_NAMES = {path.lstrip("/").split("/")[0].strip("[]{}") for path in _PATHS}
_NAMES |= {
    "permissions",
    "entitlements",
    "resource_access",
    "azp",
    "cid",
    "acr",
    "tid",
    "org_id",
    "client_id",
}


@settings(max_examples=50)
@given(
    name=st.sampled_from(list(PRESETS)),
    claims=st.dictionaries(st.sampled_from(sorted(_NAMES)), _ANY),
)
def test_claim_of_another_type_counts_as_missing(name: Any, claims: dict[str, Any]) -> None:
    caller = principal(name, claims | {"sub": "alice", "exp": 1})

    texts = {*caller.scopes, *caller.roles, *caller.groups, *caller.permissions}
    texts |= {caller.client_id, caller.tenant, caller.acr}
    for roles in caller.client_roles.values():
        texts |= roles
    assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("keycloak", {"scope": ["admin"], "realm_access": ["admin"], "resource_access": "admin"}),
        ("keycloak", {"realm_access": {"roles": "admin"}, "resource_access": {"a": ["admin"]}}),
        ("keycloak", {"realm_access": {"roles": [["admin"], {"admin": 1}, None]}, "permissions": ["admin"]}),
        ("keycloak", {"groups": ["admin"], "scp": ["admin"], "roles": ["admin"]}),
        ("auth0", {"permissions": "admin", "scope": ["admin"], "https://a.test/roles": "admin"}),
        ("auth0", {"roles": ["admin"], "http://a.test/roles": ["admin"], "https://a.test/rolesx": ["admin"]}),
        ("auth0", {"realm_access": {"roles": ["admin"]}, "groups": ["admin"], "scp": ["admin"]}),
        ("okta", {"scp": "admin", "groups": "admin", "scope": ["admin"]}),
        ("okta", {"groups": {"admin": True}, "permissions": ["admin"], "roles": ["admin"]}),
        (
            "entra",
            {"scp": ["admin"], "roles": "admin", "groups": "admin", "wids": ["admin"], "scope": "admin"},
        ),
        ("cognito", {"cognito:groups": "admin", "groups": ["admin"], "roles": ["admin"], "scp": ["admin"]}),
        ("google", {"scope": "admin", "roles": ["admin"], "groups": ["admin"], "permissions": ["admin"]}),
        ("zitadel", {"urn:zitadel:iam:org:project:roles": ["admin"], "roles": {"admin": {}}}),
        (
            "authentik",
            {"groups": {"admin": 1}, "scope": ["admin"], "roles": ["admin"], "permissions": ["admin"]},
        ),
        ("generic", {"scope": ["admin"], "roles": "admin", "entitlements": [{"value": "admin"}]}),
    ],
)
def test_rights_in_claims_of_other_providers_are_ignored(name: ProviderName, claims: dict[str, Any]) -> None:
    caller = principal(name, claims | {"sub": "alice", "exp": 1})

    assert not caller.has_scope("admin")
    assert not caller.has_role("admin")
    assert not caller.has_permission("admin")
    assert not any(caller.has_client_role(client, "admin") for client in ("a", *caller.client_roles))


async def test_repr_of_a_principal_contains_no_other_claims(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    caller = await signed(idp, make_verifier, "keycloak", KEYCLOAK | {"email": "canary@a.test"})

    assert caller.claims["email"] == "canary@a.test"
    assert "canary" not in repr(caller)
