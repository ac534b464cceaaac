"""The named tokens of the test bed, made by Keycloak or from its tokens, at the services of the stack."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatehouse.client.issuer import decode
from gatehouse_testbed.bed.tokens import NAMED_TOKENS, OVERSIZE_BYTES
from tests.support.compose import Host, until

SCOPE = "openid read:users"


async def granted(host: Host, member: str) -> str:
    """A member of what the token endpoint returns to alice."""
    return str((await host.login("alice", SCOPE))[member])


async def expired(host: Host) -> str:
    """Accepted for a second, and presented later."""
    token = await host.client_token("gatehouse-brief")

    async def now() -> float:
        return time.time()

    await until(now, lambda at: at > decode(token)["claims"]["exp"])
    return token


async def revoked(host: Host) -> str:
    token = await granted(host, "access_token")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        url = f"{host.profile.issuer}/protocol/openid-connect/revoke"
        answer = await http.post(url, data={"client_id": host.profile.console_client, "token": token})
    assert answer.status_code == 200, answer.text
    return token


def encode(part: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


async def tampered(host: Host) -> str:
    token = await granted(host, "access_token")
    header, _, signature = token.split(".")
    claims = decode(token)["claims"]
    return f"{header}.{encode(claims | {'scope': claims['scope'] + ' admin'})}.{signature}"


async def unsigned(host: Host) -> str:
    found = decode(await granted(host, "access_token"))
    return f"{encode(found['header'] | {'alg': 'none'})}.{encode(found['claims'])}."


async def hmac_of_public_key(host: Host) -> str:
    token = await granted(host, "access_token")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        keys = (await http.get(f"{host.profile.issuer}/protocol/openid-connect/certs")).json()["keys"]
    found = decode(token)
    (key,) = (key for key in keys if key["kid"] == found["header"]["kid"])
    pem = jwt.PyJWK(key).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    content = f"{encode(found['header'] | {'alg': 'HS256'})}.{encode(found['claims'])}"
    mac = base64.urlsafe_b64encode(hmac.digest(pem, content.encode(), "sha256")).rstrip(b"=").decode()
    return f"{content}.{mac}"


def forged(**claims: Any) -> Callable[[Host], Awaitable[str]]:
    """Return what signs other claims with another key, under the id of a key of Keycloak."""

    async def make(host: Host) -> str:
        found = decode(await granted(host, "access_token"))
        key = ec.generate_private_key(ec.SECP256R1())
        return jwt.encode(found["claims"] | claims, key, "ES256", headers=found["header"])

    return make


async def opaque(_: Host) -> str:
    return secrets.token_urlsafe(32)


MAKERS: Mapping[str, Callable[[Host], Awaitable[str]]] = {
    "valid": lambda host: granted(host, "access_token"),
    "expired": expired,
    "wrong_audience": lambda host: host.client_token("gatehouse-elsewhere"),
    "wrong_issuer": forged(iss="https://issuer.example/realms/other"),
    "unknown_key": forged(),
    "tampered": tampered,
    "alg_none": unsigned,
    "alg_hmac": hmac_of_public_key,
    "revoked": revoked,
    "refresh_token": lambda host: granted(host, "refresh_token"),
    "id_token": lambda host: granted(host, "id_token"),
    "oversized": forged(padding="x" * OVERSIZE_BYTES),
    "opaque": opaque,
}
# Keycloak sets `nbf` only by a policy of the realm, which revokes older tokens.
NOT_MADE = {"not_yet_valid"}


async def test_named_tokens_have_the_same_answers_with_keycloak(host: Host) -> None:
    assert MAKERS.keys() | NOT_MADE == NAMED_TOKENS.keys()
    codes = {name: await host.code("users", "ListUsers", await make(host)) for name, make in MAKERS.items()}
    expected = {name: "OK" if NAMED_TOKENS[name].accepted else "UNAUTHENTICATED" for name in MAKERS}
    assert {name: code.name for name, code in codes.items()} == expected
