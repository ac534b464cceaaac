"""Each preset reads what its provider documents; the table is in provider_shapes.py."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from gatehouse.client.token_endpoint import request_token
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed, discover
from gatehouse.settings import PRESETS, IssuerSettings
from tests.oauth.provider_shapes import SHAPES, Shape
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import MakeVerifier, Verifier, config, refusal
from tests.support.oauth_issuers import AUDIENCE, EPOCH, LoopbackIssuer

NOW = int(EPOCH)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def settings_of(idp: LoopbackIssuer, shape: Shape, mode: str, **changes: Any) -> IssuerSettings:
    return config(idp, mode, provider=shape.provider, **(dict(shape.settings) | changes))


def sign(idp: LoopbackIssuer, shape: Shape, claims: Any) -> str:
    """Return a token of the provider with `claims` that is valid otherwise."""
    times = {"iss": idp.issuer, "iat": NOW, "exp": NOW + 300}
    return idp.keys[0].sign(times | dict(claims), {"alg": "ES256", "kid": "key-1", **shape.header})


def test_each_preset_has_a_shape_with_its_source() -> None:
    assert {shape.provider for shape in SHAPES} == set(PRESETS)
    assert all(shape.source for shape in SHAPES)
    assert all((shape.response is None) == (PRESETS[shape.provider].modes == ("jwt",)) for shape in SHAPES)


@every_shape
async def test_token_as_documented(shape: Shape, idp: LoopbackIssuer, make_verifier: MakeVerifier) -> None:
    verifier = await make_verifier(settings_of(idp, shape, "jwt"))
    caller = await verifier.verify(sign(idp, shape, shape.token))

    assert caller.subject == shape.token["sub"]
    assert {name: getattr(caller, name) for name in shape.caller} == shape.caller


@every_shape
async def test_other_tokens_as_documented_are_refused(
    shape: Shape, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(settings_of(idp, shape, "jwt"))

    for claims in shape.others:
        assert await refusal(verifier, sign(idp, shape, claims)) == "token_type_mismatch"
    other_audience = dict(shape.token) | {"aud": "other", "client_id": "other"}
    assert await refusal(verifier, sign(idp, shape, other_audience)) == "audience_mismatch"


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.response is not None], ids=str)
async def test_introspection_as_documented(
    shape: Shape, idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(settings_of(idp, shape, "hybrid"))
    token = sign(idp, shape, shape.token)
    idp.activate(token, {"iss": idp.issuer, "exp": NOW + 300, **(shape.response or {})})
    caller = await verifier.verify(token)

    assert caller.roles == shape.caller["roles"]
    assert caller.client_id == shape.caller["client_id"]


@every_shape
async def test_metadata_as_documented(shape: Shape, idp: LoopbackIssuer, http: httpx.AsyncClient) -> None:
    idp.answer("metadata", Reply(dict(shape.metadata)))
    found = await discover(http, shape.metadata["issuer"], idp.url("metadata"))

    assert found.jwks_uri == shape.metadata["jwks_uri"]
    assert bool(found.introspection_endpoint) == (shape.response is not None)


@every_shape
async def test_error_as_documented_names_its_code_only(
    shape: Shape, idp: LoopbackIssuer, http: httpx.AsyncClient
) -> None:
    status, body = shape.error
    idp.answer("token", Reply(dict(body), status))
    with pytest.raises(TokenRequestFailed) as caught:
        await request_token(http, idp.url("token"), {"grant_type": "client_credentials"}, ("c", "s"))

    assert caught.value.error == body["error"]
    assert "canary" not in f"{caught.value!r} {caught.value.detail}"


async def test_okta_error_of_introspection_without_an_oauth_error_code(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """Okta refuses a client with `errorCode` instead of `error`."""
    verifier = await make_verifier(config(idp, "introspection", provider="okta"))
    idp.answer("introspect", Reply({"errorCode": "invalid_client", "errorSummary": "canary"}, 401))
    with pytest.raises(IssuerUnavailable) as caught:
        await verifier.verify("opaque")

    assert caught.value.reason == "introspection_refused"
    assert "canary" not in caught.value.detail


async def test_authentik_answers_a_wrong_secret_like_an_inactive_token(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    shape = next(shape for shape in SHAPES if shape.provider == "authentik")
    verifier = await make_verifier(settings_of(idp, shape, "hybrid"))
    idp.answer("introspect", Reply({"active": False}))

    assert await refusal(verifier, sign(idp, shape, shape.token)) == "token_inactive"


async def test_generic_token_needs_the_type_of_rfc_9068_in_its_header(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    shape = next(shape for shape in SHAPES if shape.provider == "generic")
    verifier = await make_verifier(settings_of(idp, shape, "jwt"))
    claims = {"iss": idp.issuer, "exp": NOW + 300, **shape.token}
    token = idp.keys[0].sign(claims, {"alg": "ES256", "kid": "key-1", "typ": "JWT"})

    assert await refusal(verifier, token) == "token_type_mismatch"


async def verified(make: MakeVerifier, settings: IssuerSettings, token: str) -> Any:
    verifier: Verifier = await make(settings)
    return await verifier.verify(token)


async def test_single_claim_path_overrides_the_preset(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    claims = {
        "sub": "alice",
        "aud": "other",
        "resource": AUDIENCE,
        "kind": "access",
        "app": {"id": "c", "scopes": ["read:users"], "https://a.test/r/~x": "one two"},
        "groups": {"staff": 1},
        "rights": ["export"],
        "org": "o",
        "clients": {"api": {"roles": ["auditor"]}, "bad": {"roles": "auditor"}, "worse": "auditor"},
    }
    changes = {
        "audience_claim": "resource",
        "access_token_marks": "kind=access",
        "client_id_claims": ["missing", "/app/id"],
        "scope_claims": "/app/scopes[]",
        "role_claims": ["/app/https:~1~1a.test~1r~1~0x"],
        "group_claims": "groups{}",
        "permission_claims": ["rights[]", "scope"],
        "tenant_claim": "org",
        "client_role_claims": "/clients/*/roles[]",
    }
    settings = config(idp, "jwt", provider="generic", **changes)
    token = idp.keys[0].sign({"iss": idp.issuer, "exp": NOW + 300} | claims)
    caller = await verified(make_verifier, settings, token)

    assert (caller.client_id, caller.tenant) == ("c", "o")
    assert (caller.scopes, caller.roles) == ({"read:users"}, {"one", "two"})
    assert (caller.groups, caller.permissions) == ({"staff"}, {"export"})
    assert caller.client_roles == {"api": {"auditor"}, "bad": set(), "worse": set()}


async def test_path_that_a_token_does_not_have_gives_no_rights(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    missing = "/realm_access/nothing/at/all"
    changes = {"scope_claims": missing, "role_claims": f"{missing}[]", "tenant_claim": missing}
    token = idp.keys[0].sign(
        {"iss": idp.issuer, "exp": NOW + 300, "sub": "alice", "aud": AUDIENCE, "typ": "Bearer"}
        | {"scope": "read:users", "realm_access": {"roles": ["admin"]}}
    )
    caller = await verified(make_verifier, config(idp, "jwt", **changes), token)

    assert (caller.scopes, caller.roles, caller.tenant) == (set(), set(), "")


VALID = {"issuer": "https://id.test", "audience": "api", "mode": "jwt"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provider": "auth0", "mode": "hybrid"}, "provider auth0 needs mode jwt"),
        ({"provider": "entra", "mode": "introspection"}, "provider entra needs mode jwt"),
        ({"provider": "authentik", "mode": "introspection"}, "provider authentik needs mode hybrid or jwt"),
        ({"provider": "google"}, "provider google needs accept_id_tokens"),
        ({"provider": "okta", "accept_id_tokens": True}, "provider okta has no use for accept_id_tokens"),
        ({"role_claims": ""}, "role_claims"),
        ({"role_claims": 7}, "must be a string or a list of strings"),
        ({"role_claims": "[]"}, "must be the name of a claim"),
        ({"role_claims": "/"}, "must be a JSON Pointer"),
        ({"role_claims": "/a//b"}, "must be a JSON Pointer"),
        ({"role_claims": "/a/~2"}, "must be a JSON Pointer"),
        ({"role_claims": "a b"}, "must be the name of a claim"),
        ({"role_claims": "/a/*/b[]"}, "client_role_claims only"),
        ({"client_role_claims": "/a/b[]"}, "must have * for the client"),
        ({"client_role_claims": "/a/*/b"}, "must have * for the client"),
        ({"client_id_claims": "azp[]"}, "must not end in [] or {}"),
        ({"tenant_claim": "tid{}"}, "must not end in [] or {}"),
        ({"audience_claim": "aud[]"}, "must not end in [] or {}"),
        ({"access_token_marks": ""}, "must be names of claims"),
        ({"access_token_marks": "=a"}, "must be names of claims"),
        ({"access_token_marks": "a  b"}, "must be names of claims"),
        ({"tenants": "a"}, "tenants needs tenant_claim"),
        ({"issuer": "https://id.test/{tid}"}, "issuer may contain {tenantid} once"),
        ({"issuer": "https://id.test/{tenantid}/{tenantid}"}, "issuer may contain {tenantid} once"),
        ({"issuer": "https://id.test/{tenantid}"}, "needs discovery_url"),
    ],
    ids=str,
)
def test_contradictory_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    client = {"client_id": "c", "client_secret": "s"}
    with pytest.raises(ValidationError) as caught:
        IssuerSettings(**(VALID | client | changes))

    assert message in str(caught.value)


def test_preset_itself_is_made_of_valid_settings() -> None:
    for name, layout in PRESETS.items():
        given = {key: getattr(layout, key) for key in IssuerSettings.model_fields if hasattr(layout, key)}
        set_values = {key: value for key, value in given.items() if value not in ("", ())}
        settings = IssuerSettings(
            **(VALID | {"provider": name, "accept_id_tokens": layout.only_id_tokens} | set_values)
        )
        assert settings.layout == layout
