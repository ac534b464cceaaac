"""The token endpoint: client credentials, password grant and errors (RFC 6749)."""

import pytest

from tests.issuers.idp import CONSOLE, REDIRECT, Idp, claims_of, granted, refusal
from tests.support.issuer import SECRETS
from tests.support.realm import token_roles

WORKER = {"client_id": "gatehouse-worker", "client_secret": SECRETS["gatehouse-worker"]}
ALICE = {"client_id": CONSOLE, "username": "alice", "password": "alice"}


async def test_service_account_gets_a_token(idp: Idp) -> None:
    answer = await idp.service_answer(scope="read:users write:users")
    assert "no-store" in answer.headers["cache-control"]
    found = granted(answer)
    assert found.keys() == {
        "access_token",
        "expires_in",
        "not-before-policy",
        "refresh_expires_in",
        "scope",
        "token_type",
    }
    assert (found["token_type"], found["expires_in"], found["refresh_expires_in"]) == ("Bearer", 300, 0)
    assert set(found["scope"].split()) == {"read:users", "write:users"}
    claims = claims_of(found["access_token"])
    assert claims.keys() == {
        "acr",
        "aud",
        "azp",
        "exp",
        "iat",
        "iss",
        "jti",
        "realm_access",
        "scope",
        "sub",
        "typ",
    }
    assert (claims["iss"], claims["aud"]) == (idp.issuer, "gatehouse-api")
    assert (claims["azp"], claims["typ"], claims["acr"]) == ("gatehouse-worker", "Bearer", "1")
    assert set(claims["realm_access"]["roles"]) == {"user", "editor"}
    assert set(claims["scope"].split()) == {"read:users", "write:users"}
    assert claims["exp"] - claims["iat"] == 300


async def test_basic_authentication_is_accepted(idp: Idp) -> None:
    answer = await idp.http.post(
        idp.url("token"), data={"grant_type": "client_credentials"}, auth=tuple(WORKER.values())
    )
    assert claims_of(granted(answer)["access_token"])["azp"] == "gatehouse-worker"


async def test_client_can_have_its_own_token_lifetime(idp: Idp) -> None:
    found = granted(await idp.service_answer("gatehouse-brief"))
    assert found["expires_in"] == 1


async def test_token_without_scopes_has_an_empty_scope(idp: Idp) -> None:
    found = granted(await idp.service_answer())
    assert found["scope"] == ""
    assert claims_of(found["access_token"])["scope"] == ""
    assert "scope" not in await idp.introspect(found["access_token"])


async def test_user_gets_tokens_by_password(idp: Idp) -> None:
    found = granted(await idp.password_answer())
    assert found.keys() == {
        "access_token",
        "expires_in",
        "not-before-policy",
        "refresh_expires_in",
        "refresh_token",
        "scope",
        "session_state",
        "token_type",
    }
    assert found["refresh_expires_in"] == 1800
    claims = claims_of(found["access_token"])
    assert claims.keys() == {
        "acr",
        "aud",
        "azp",
        "exp",
        "iat",
        "iss",
        "jti",
        "realm_access",
        "resource_access",
        "scope",
        "sid",
        "sub",
        "typ",
    }
    assert claims["sub"] == "00000000-0000-4000-8000-0000000a11ce"
    assert claims["sid"] == found["session_state"]
    assert set(claims["realm_access"]["roles"]) == token_roles("alice")
    assert claims["resource_access"] == {"gatehouse-api": {"roles": ["auditor"]}}


async def test_scope_openid_adds_an_id_token(idp: Idp) -> None:
    found = granted(await idp.password_answer(scope="openid"))
    assert found["scope"] == "openid"
    identity = claims_of(found["id_token"])
    assert (identity["typ"], identity["aud"], identity["iss"]) == ("ID", CONSOLE, idp.issuer)
    assert identity["sub"] == claims_of(found["access_token"])["sub"]


async def test_scope_can_be_named_twice(idp: Idp) -> None:
    assert (await idp.user_tokens(scope="read:users read:users "))["scope"] == "read:users"


async def test_user_name_is_case_insensitive(idp: Idp) -> None:
    granted(await idp.password_answer(username="ALICE"))


async def test_user_without_roles_gets_a_token_without_roles(idp: Idp) -> None:
    claims = claims_of(await idp.user_token("carol"))
    assert not {"realm_access", "resource_access"} & claims.keys()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"grant_type": "client_credentials", **WORKER, "client_secret": "x"}, (401, "unauthorized_client")),
        (
            {"grant_type": "client_credentials", "client_id": "gatehouse-worker"},
            (401, "unauthorized_client"),
        ),
        (
            {"grant_type": "client_credentials", "client_id": "nobody", "client_secret": "x"},
            (401, "invalid_client"),
        ),
        ({"grant_type": "client_credentials"}, (401, "invalid_client")),
        ({"grant_type": "client_credentials", "client_id": CONSOLE}, (401, "unauthorized_client")),
        ({"grant_type": "client_credentials", **WORKER, "scope": "nothing"}, (400, "invalid_scope")),
        ({"grant_type": "client_credentials", **WORKER, "scope": "admin"}, (400, "invalid_scope")),
        ({"grant_type": "password", **ALICE, "password": "wrong"}, (400, "invalid_grant")),
        ({"grant_type": "password", **ALICE, "username": "nobody"}, (400, "invalid_grant")),
        ({"grant_type": "password", "client_id": CONSOLE}, (401, "invalid_request")),
        ({"grant_type": "password", "client_id": CONSOLE, "username": "bob"}, (400, "invalid_grant")),
        (
            {"grant_type": "password", "client_id": CONSOLE, "username": "dave", "password": "dave"},
            (400, "invalid_grant"),
        ),
        ({"grant_type": "password", **ALICE, "scope": "nothing"}, (400, "invalid_scope")),
        ({"grant_type": "password", **ALICE, "scope": ""}, (400, "invalid_scope")),
        ({"grant_type": "password", **ALICE, "scope": "read:users  openid"}, (400, "invalid_scope")),
        ({"grant_type": "password", **ALICE, "scope": "READ:USERS"}, (400, "invalid_scope")),
        ({"grant_type": "client_credentials", **WORKER, "scope": ""}, (400, "invalid_scope")),
        ({"grant_type": "password", **ALICE, **WORKER}, (400, "unauthorized_client")),
        ({"grant_type": "nothing", "client_id": CONSOLE}, (400, "unsupported_grant_type")),
        ({"grant_type": "", "client_id": CONSOLE}, (400, "unsupported_grant_type")),
        ({"client_id": CONSOLE}, (400, "invalid_request")),
        ({"grant_type": "refresh_token", "client_id": CONSOLE}, (400, "invalid_request")),
        (
            {"grant_type": "refresh_token", "client_id": CONSOLE, "refresh_token": "x"},
            (400, "invalid_grant"),
        ),
        (
            {
                "grant_type": "authorization_code",
                "client_id": CONSOLE,
                "code": "x",
                "redirect_uri": REDIRECT,
            },
            (400, "invalid_grant"),
        ),
        ({"grant_type": "authorization_code", "client_id": CONSOLE}, (400, "invalid_request")),
        (
            {"grant_type": "authorization_code", **WORKER, "code": "x", "redirect_uri": REDIRECT},
            (400, "invalid_grant"),
        ),
        ({"grant_type": "refresh_token", **WORKER, "refresh_token": "x"}, (400, "invalid_grant")),
    ],
)
async def test_request_that_cannot_be_granted_is_refused(
    idp: Idp, form: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = await idp.token(**form)
    assert refusal(answer) == expected
    assert answer.json().get("error_description")
    assert "no-store" in answer.headers["cache-control"]


async def test_api_client_cannot_get_a_token(idp: Idp) -> None:
    assert refusal(await idp.service_answer("gatehouse-api")) == (401, "unauthorized_client")


async def test_repeated_parameter_is_refused(idp: Idp) -> None:
    form = {"grant_type": ["client_credentials", "client_credentials"], **WORKER}
    assert refusal(await idp.http.post(idp.url("token"), data=form)) == (400, "invalid_request")


async def test_body_that_is_not_a_form_is_refused(idp: Idp) -> None:
    answer = await idp.http.post(idp.url("token"), json={"grant_type": "client_credentials"})
    assert refusal(answer) == (400, "invalid_request")


async def test_different_client_ids_in_header_and_form_are_refused(idp: Idp) -> None:
    answer = await idp.http.post(
        idp.url("token"),
        data={"grant_type": "client_credentials", "client_id": "gatehouse-elsewhere"},
        auth=tuple(WORKER.values()),
    )
    assert refusal(answer) == (401, "unauthorized_client")


async def test_get_is_not_allowed(idp: Idp) -> None:
    assert (await idp.http.get(idp.url("token"))).status_code == 405
