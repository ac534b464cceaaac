"""Client authentication with private_key_jwt: RFC 7523 section 3."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatehouse.client import ClientCredentials, OAuthClient, PrivateKeyJwt, TokenManager
from tests.issuers.idp import Idp, Json, claims_of, client_of, refusal
from tests.support.oauth_issuers import SigningKey

WORKER = "gatehouse-worker"
KEY, SECOND, STRANGER = (SigningKey.make(name, "ES256") for name in ("first", "second", "stranger"))
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def use_keys(realm: Json) -> None:
    """Give the worker two public keys instead of its secret."""
    worker = client_of(realm, WORKER)
    keys = [KEY.jwk(), SECOND.jwk()]
    worker["clientAuthenticatorType"] = "client-jwt"
    worker["attributes"] = {"use.jwks.string": "true", "jwks.string": json.dumps({"keys": keys})}


@pytest.fixture
async def realm(idp: Idp) -> AsyncIterator[Idp]:
    """A realm whose worker authenticates with a key."""
    async with idp.realm_like(use_keys) as other:
        yield other


def assertion(
    realm: Idp, *, key: SigningKey = KEY, without: str = "", kid: str | None = None, **claims: Any
) -> str:
    """Return an assertion of the worker; times are relative to now."""
    now = int(time.time())
    ours = {"iss": WORKER, "sub": WORKER, "aud": realm.issuer, "jti": secrets.token_hex(8)}
    found: Json = {k: v for k, v in (ours | {"iat": 0, "exp": 50} | claims).items() if k != without}
    found |= {k: now + found[k] for k in ("iat", "nbf", "exp") if isinstance(found.get(k), int)}
    headers = {"kid": key.kid if kid is None else kid} if kid != "" else None
    return jwt.encode(found, key.private, "ES256", headers)


async def ask(
    realm: Idp, value: str, path: str = "token", *, without: str = "", **more: str
) -> tuple[int, str]:
    """Send a request with an assertion and return its status and error."""
    form = {
        "grant_type": "client_credentials",
        "scope": "read:users",
        "token": "nonsense",
        "client_assertion_type": TYPE,
        "client_assertion": value,
    }
    answer = await realm.http.post(
        realm.url(path), data={k: v for k, v in (form | more).items() if k != without}
    )
    body = answer.json()
    return (answer.status_code, "") if "access_token" in body else (answer.status_code, body.get("error", ""))


async def test_metadata_lists_the_method_and_its_algorithms(idp: Idp) -> None:
    found = (await idp.http.get(f"{idp.issuer}/.well-known/openid-configuration")).json()
    for endpoint in ("token", "introspection", "revocation"):
        assert "private_key_jwt" in found[f"{endpoint}_endpoint_auth_methods_supported"]
        assert "ES256" in found[f"{endpoint}_endpoint_auth_signing_alg_values_supported"]


async def test_gatehouse_client_authenticates_with_its_key(realm: Idp) -> None:
    auth = PrivateKeyJwt(KEY.pem, KEY.kid)
    client = OAuthClient(realm.http, WORKER, auth, issuer=realm.issuer)
    token = await TokenManager(ClientCredentials(client, "read:users")).token()
    assert claims_of(token)["azp"] == WORKER


async def test_any_key_of_the_client_is_accepted_by_its_id(realm: Idp) -> None:
    assert await ask(realm, assertion(realm, key=SECOND)) == (200, "")
    assert await ask(realm, assertion(realm, kid="")) == (200, "")
    assert await ask(realm, assertion(realm, kid="unknown")) == (400, "invalid_client")
    assert await ask(realm, assertion(realm, key=STRANGER, kid=KEY.kid)) == (400, "invalid_client")


def use_certificate(realm: Json) -> None:
    """Give the worker a certificate, as the admin console stores it."""
    use_keys(realm)
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, WORKER)])
    built = x509.CertificateBuilder(name, name, KEY.private.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    der = built.sign(KEY.private, hashes.SHA256()).public_bytes(Encoding.DER)
    client_of(realm, WORKER)["attributes"] = {"jwt.credential.certificate": base64.b64encode(der).decode()}


async def test_key_may_be_in_a_certificate(idp: Idp) -> None:
    info = KEY.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    derived = base64.urlsafe_b64encode(hashlib.sha256(info).digest()).rstrip(b"=").decode()
    async with idp.realm_like(use_certificate) as realm:
        for kid in ("", derived):
            assert await ask(realm, assertion(realm, kid=kid)) == (200, "")
        assert await ask(realm, assertion(realm, kid="unknown")) == (400, "invalid_client")
        assert await ask(realm, assertion(realm, key=SECOND, kid="")) == (400, "invalid_client")


async def test_assertion_is_accepted_once_at_all_endpoints(realm: Idp) -> None:
    once = assertion(realm)
    assert await ask(realm, once) == (200, "")
    for path in ("token", "token/introspect", "revoke"):
        assert await ask(realm, once, path) == (400, "invalid_client")


async def outcomes(realm: Idp, cases: list[Json], **form: str) -> dict[str, tuple[int, str]]:
    """Send an assertion with each of these changes, all in one realm, which takes long to make."""
    return {str(case): await ask(realm, assertion(realm, **case), **form) for case in cases}


async def test_audience_is_the_issuer_or_one_endpoint(realm: Idp) -> None:
    for audience in (realm.issuer, realm.url("token"), realm.url("token/introspect")):
        assert await ask(realm, assertion(realm, aud=audience)) == (200, "")
        assert await ask(realm, assertion(realm, aud=[audience]), "token/introspect") == (200, "")
        two = assertion(realm, aud=[audience, "https://b.test"])
        assert await ask(realm, two) == (400, "invalid_client")


async def test_wrong_claim_is_refused(realm: Idp) -> None:
    cases: list[Json] = [
        {"without": "aud"},
        {"without": "jti"},
        {"without": "exp"},
        {"aud": "https://other.test"},
        {"aud": []},
        {"exp": -1},
        {"iat": -70},
        {"iat": 30},
        {"nbf": 30},
        {"without": "iat", "exp": 300},
    ]
    found = await outcomes(realm, cases)
    assert found == dict.fromkeys(found, (400, "invalid_client"))


async def test_assertion_must_name_the_client(realm: Idp) -> None:
    found = await outcomes(realm, [{"iss": "other"}, {"sub": "other"}, {"without": "iss"}], client_id=WORKER)
    assert found == dict.fromkeys(found, (401, "invalid_client"))


async def test_other_clients_and_methods_are_refused(realm: Idp) -> None:
    elsewhere = "gatehouse-elsewhere"  # it has a secret
    assert await ask(realm, assertion(realm), client_id=elsewhere) == (401, "unauthorized_client")
    foreign = assertion(realm, iss=elsewhere, sub=elsewhere)
    assert await ask(realm, foreign, client_id=elsewhere) == (401, "unauthorized_client")
    assert refusal(await realm.service_answer(WORKER)) == (400, "invalid_client")


async def test_malformed_assertion_is_refused(realm: Idp) -> None:
    claims = jwt.decode(assertion(realm), options={"verify_signature": False})
    secret = "worker-demo-secret-of-more-than-32-bytes"
    cases = [
        {"without": "client_assertion"},
        {"without": "client_assertion_type"},
        {"client_assertion_type": "nonsense"},
        {"client_assertion": "nonsense"},
        {"client_assertion": ""},
        {"client_assertion": jwt.encode(claims, None, "none", {"kid": KEY.kid})},
        {"client_assertion": jwt.encode(claims, secret, "HS256", {"kid": KEY.kid})},
    ]
    found = {}
    for case in cases:
        form = {"value": assertion(realm), "client_id": WORKER} | case
        found[str(case)] = await ask(realm, **form)
    assert found == dict.fromkeys(found, (400, "invalid_client"))
