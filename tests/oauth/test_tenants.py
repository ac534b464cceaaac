"""An issuer with a placeholder for the tenant, as multi-tenant applications of Microsoft Entra have it.

https://learn.microsoft.com/entra/identity-platform/access-tokens#validate-tokens
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gatehouse.oauth import IssuerUnavailable
from gatehouse.settings import IssuerSettings
from tests.support.loopback_http import Reply
from tests.support.oauth_fixtures import CountingObserver, MakeVerifier, Verifier, config, refusal
from tests.support.oauth_issuers import AUDIENCE, EPOCH, LoopbackIssuer, SigningKey

NOW = int(EPOCH)
TEMPLATE = "https://login.microsoftonline.com/{tenantid}/v2.0"
ONE, OTHER = "aaaabbbb-0000-cccc-1111-dddd2222eeee", "bbbbcccc-1111-dddd-2222-eeee3333ffff"


def entra(idp: LoopbackIssuer, *tenants: str) -> IssuerSettings:
    """Return the settings of a multi-tenant application, with the metadata served by `idp`."""
    document = {"issuer": TEMPLATE, "jwks_uri": idp.url("jwks")}
    idp.answer("organizations", Reply(document))
    changes = {"issuer": TEMPLATE, "discovery_url": idp.url("organizations"), "tenants": list(tenants)}
    return config(idp, "jwt", provider="entra", **changes)


def token(idp: LoopbackIssuer, tid: Any, issuer: Any = None, key: int = 0) -> str:
    """Return a token of a tenant, with the issuer of this tenant if `issuer` is None."""
    claims = {
        "iss": TEMPLATE.replace("{tenantid}", str(tid)) if issuer is None else issuer,
        "aud": AUDIENCE,
        "exp": NOW + 300,
        "sub": "alice",
        "tid": tid,
        "azp": "c",
        "azpacr": "1",
        "scp": "read:users",
    }
    return idp.keys[key].sign({name: value for name, value in claims.items() if value is not ...})


@pytest.fixture
async def verifier(idp: LoopbackIssuer, make_verifier: MakeVerifier) -> Verifier:
    return await make_verifier(entra(idp, ONE))


async def test_issuer_of_the_principal_is_that_of_its_tenant(idp: LoopbackIssuer, verifier: Verifier) -> None:
    caller = await verifier.verify(token(idp, ONE))

    assert (caller.issuer, caller.tenant) == (TEMPLATE.replace("{tenantid}", ONE), ONE)
    assert caller.scopes == {"read:users"}


@pytest.mark.parametrize(
    ("tid", "issuer"),
    [
        (OTHER, None),
        (ONE, TEMPLATE.replace("{tenantid}", OTHER)),
        (OTHER, TEMPLATE.replace("{tenantid}", ONE)),
        (..., TEMPLATE.replace("{tenantid}", ONE)),
        ([ONE], TEMPLATE.replace("{tenantid}", ONE)),
        ("", None),
        ("*", None),
        (ONE.upper(), None),
        (ONE, "https://sts.windows.net/{tenantid}/".replace("{tenantid}", ONE)),
        (ONE, [TEMPLATE.replace("{tenantid}", ONE)]),
    ],
)
async def test_token_of_no_accepted_tenant_is_refused(
    tid: Any, issuer: Any, idp: LoopbackIssuer, verifier: Verifier
) -> None:
    assert await refusal(verifier, token(idp, tid, issuer)) == "issuer_unknown"


async def test_token_that_names_the_template_itself_is_refused(
    idp: LoopbackIssuer, verifier: Verifier
) -> None:
    assert await refusal(verifier, token(idp, ONE, TEMPLATE)) == "issuer_mismatch"
    assert await refusal(verifier, token(idp, OTHER, TEMPLATE)) == "tenant_not_accepted"


async def test_each_tenant_is_accepted_with_an_asterisk(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    verifier = await make_verifier(entra(idp, "*"))

    assert {(await verifier.verify(token(idp, tid))).tenant for tid in (ONE, OTHER)} == {ONE, OTHER}
    for tid in ("evil/../x", "a b", "", "*", "x" * 64, "\u0430"):
        assert await refusal(verifier, token(idp, tid)) == "issuer_unknown"


async def test_key_of_a_single_tenant_does_not_sign_for_others(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.keys.append(SigningKey.make("personal"))
    personal = TEMPLATE.replace("{tenantid}", "9188040d-6c67-4c5b-b112-36a304b66dad")
    keys = [idp.keys[0].jwk(issuer=TEMPLATE), idp.keys[1].jwk(issuer=personal), "no key"]
    idp.answer("jwks", Reply({"keys": keys}))
    verifier = await make_verifier(entra(idp, ONE))

    assert (await verifier.verify(token(idp, ONE))).tenant == ONE
    assert await refusal(verifier, token(idp, ONE, key=1)) == "key_unknown"


async def test_keys_of_an_issuer_without_placeholder_may_name_their_tenant(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    idp.answer("jwks", Reply({"keys": [idp.keys[0].jwk(issuer=TEMPLATE.replace("{tenantid}", ONE))]}))
    verifier = await make_verifier(config(idp))

    assert await verifier.verify(idp.sign())


async def test_key_set_of_a_template_without_a_list_is_malformed(
    idp: LoopbackIssuer, make_verifier: MakeVerifier, observer: CountingObserver
) -> None:
    settings = entra(idp, ONE)
    idp.answer("jwks", Reply({"keys": None}))
    verifier = await make_verifier(settings)

    assert not verifier.ready
    assert observer.asked == [("keys", "keys_malformed")]


async def test_metadata_of_a_single_tenant_is_refused(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    settings = entra(idp, ONE)
    idp.answer(
        "organizations", Reply({"issuer": TEMPLATE.replace("{tenantid}", ONE), "jwks_uri": idp.url("jwks")})
    )
    verifier = await make_verifier(settings)

    with pytest.raises(IssuerUnavailable):
        await verifier.verify(token(idp, ONE))


async def test_tenants_of_an_issuer_without_placeholder(
    idp: LoopbackIssuer, make_verifier: MakeVerifier
) -> None:
    """Organizations of Auth0 have the same issuer."""
    verifier = await make_verifier(config(idp, "jwt", provider="auth0", tenants="org_1"))

    def of(**claims: Any) -> str:
        values = {"iss": idp.issuer, "aud": AUDIENCE, "exp": NOW + 300, "sub": "alice", "scope": "a"}
        return idp.keys[0].sign(values | claims)

    assert (await verifier.verify(of(org_id="org_1"))).tenant == "org_1"
    for claims in ({"org_id": "org_2"}, {"org_id": ["org_1"]}, {}):
        assert await refusal(verifier, of(**claims)) == "tenant_not_accepted"


@pytest.mark.parametrize("changes", [{"tenants": ()}, {"tenant_claim": None, "provider": "okta"}])
def test_placeholder_needs_the_tenants(changes: dict[str, Any], idp: LoopbackIssuer) -> None:
    values = entra(idp, ONE).model_dump() | changes
    with pytest.raises(ValidationError, match="tenant"):
        IssuerSettings(**values)
