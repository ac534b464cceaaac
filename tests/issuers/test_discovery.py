"""Metadata and keys: OpenID Connect Discovery 1.0, RFC 8414, RFC 7517."""

import pytest

from tests.issuers.idp import Idp, kid_of
from tests.support.scopes import EVERY_SCOPE

ENDPOINTS = {
    "authorization_endpoint": "auth",
    "token_endpoint": "token",
    "introspection_endpoint": "token/introspect",
    "userinfo_endpoint": "userinfo",
    "end_session_endpoint": "logout",
    "jwks_uri": "certs",
    "revocation_endpoint": "revoke",
}


@pytest.mark.parametrize("name", ["openid-configuration", "oauth-authorization-server"])
async def test_metadata_names_the_issuer_and_its_endpoints(idp: Idp, name: str) -> None:
    answer = await idp.http.get(f"{idp.issuer}/.well-known/{name}")
    assert answer.headers["content-type"].startswith("application/json")
    found = answer.json()
    assert found["issuer"] == idp.issuer
    assert {k: found[k] for k in ENDPOINTS} == {k: idp.url(path) for k, path in ENDPOINTS.items()}


async def test_metadata_is_also_at_the_path_of_rfc_8414(idp: Idp) -> None:
    answer = await idp.http.get(f"{idp.base_url}/.well-known/oauth-authorization-server/realms/{idp.realm}")
    assert answer.json()["issuer"] == idp.issuer


async def test_metadata_lists_what_is_supported(idp: Idp) -> None:
    found = (await idp.http.get(f"{idp.issuer}/.well-known/openid-configuration")).json()
    assert {"authorization_code", "client_credentials", "refresh_token", "password"} <= set(
        found["grant_types_supported"]
    )
    assert "code" in found["response_types_supported"]
    assert "query" in found["response_modes_supported"]
    assert "S256" in found["code_challenge_methods_supported"]
    assert {"ES256", "RS256"} <= set(found["id_token_signing_alg_values_supported"])
    assert found["authorization_response_iss_parameter_supported"] is True
    assert found["subject_types_supported"]
    for endpoint in ("token", "introspection", "revocation"):
        methods = found[f"{endpoint}_endpoint_auth_methods_supported"]
        assert {"client_secret_basic", "client_secret_post"} <= set(methods)
    assert {"openid", *EVERY_SCOPE.split()} <= set(found["scopes_supported"])


async def test_jwks_has_public_signing_keys_with_ids(idp: Idp) -> None:
    answer = await idp.http.get(idp.url("certs"))
    assert "no-cache" in answer.headers["cache-control"]
    keys = answer.json()["keys"]
    assert {key["alg"] for key in keys} == {"ES256", "RS256"}
    for key in keys:
        assert key["use"] == "sig"
        assert {"kid", "kty"} <= key.keys()
        assert not {"d", "p", "q", "k"} & key.keys()
        assert {"EC": {"crv", "x", "y"}, "RSA": {"n", "e"}}[key["kty"]] <= key.keys()


async def test_tokens_are_signed_by_a_published_key(idp: Idp) -> None:
    token = await idp.service_token()
    assert (await idp.jwks())[kid_of(token)]["alg"] == "ES256"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/.well-known/openid-configuration",
        "/protocol/openid-connect/certs",
    ],
)
async def test_other_realm_does_not_exist(idp: Idp, path: str) -> None:
    answer = await idp.http.get(f"{idp.base_url}/realms/nothing{path}")
    assert (answer.status_code, answer.json()) == (404, {"error": "Realm does not exist"})


async def test_other_realm_has_no_token_and_introspection_endpoint(idp: Idp) -> None:
    for path in ("token", "token/introspect"):
        answer = await idp.http.post(
            f"{idp.base_url}/realms/nothing/protocol/openid-connect/{path}", data={"token": "x"}
        )
        assert (answer.status_code, answer.json()) == (404, {"error": "Realm does not exist"})
