"""Valid inputs of the parsers, and the issuer that they belong to."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatehouse.settings import PRESETS, IssuerSettings
from gatehouse.storage.paging import write_page_token
from tests.support.oauth_issuers import SigningKey, b64

NOW = 1_800_000_000.0
SECRET = "Secret7f3a"
ISSUER = "https://issuer.test"
CONFIGS = [
    IssuerSettings.model_validate(
        {
            "issuer": ISSUER,
            "audience": ["api"],
            "provider": provider,
            "mode": layout.modes[0],
            "accept_id_tokens": layout.only_id_tokens,
            "client_id": "api",
            "client_secret": "secret",
            "claims": ["extra", "email"],
            "jwks_uri": f"{ISSUER}/keys",
            "introspection_endpoint": f"{ISSUER}/introspect",
        }
    )
    for provider, layout in PRESETS.items()
]
KEY = SigningKey.make("key-1")
JWKS = {"keys": [KEY.jwk(), SigningKey.make("key-2", "RS256").jwk()]}
CLAIMS = {
    "iss": ISSUER,
    "aud": ["api", "other"],
    "exp": NOW + 60,
    "iat": NOW - 1,
    "nbf": NOW - 1,
    "auth_time": NOW - 5,
    "sub": "subject",
    "typ": "Bearer",
    "azp": "console",
    "client_id": "console",
    "cid": "console",
    "scope": "read:users openid",
    "scp": ["read:users"],
    "permissions": ["p"],
    "groups": ["g"],
    "realm_access": {"roles": ["admin"]},
    "resource_access": {"api": {"roles": ["r"]}},
    "acr": "1",
    "jti": "id",
    "email": "alice@example.com",
    "extra": {"a": [1, {"b": None}]},
}
METADATA = {
    "issuer": ISSUER,
    "jwks_uri": f"{ISSUER}/keys",
    "token_endpoint": f"{ISSUER}/token",
    "introspection_endpoint": f"{ISSUER}/introspect",
}
REALM = json.loads((Path(__file__).resolve().parents[2] / "keycloak/gatehouse-realm.json").read_text())


def jws(header: bytes, claims: bytes) -> bytes:
    return f"{b64(header)}.{b64(claims)}.{b64(b'signature')}".encode()


def page_tokens(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


HEADER = {"alg": "ES256", "kid": "key-1", "typ": "at+jwt"}
TOKEN = jws(json.dumps(HEADER).encode(), json.dumps(CLAIMS).encode()).decode()
PAGE = [json.loads(base64.urlsafe_b64decode(write_page_token("query", ()) + "==="))[0], "a@example.com"]
UUID = "0190a0b0-0000-7000-8000-000000000000"
HEADS = ["200 application/json", "200 application/problem+json 5", "503 application/json 1", "302 text/html"]
ANSWER: Mapping[str, Any] = {**CLAIMS, "active": True, "token_type": "Bearer"}
SMALL_REALM = {
    "realm": "r",
    "clients": [
        {
            "clientId": "c",
            "secret": SECRET,
            "defaultClientScopes": ["s"],
            "redirectUris": ["http://127.0.0.1/x"],
        }
    ],
    "clientScopes": [{"name": "s", "attributes": {"include.in.token.scope": "true"}}],
    "users": [
        {
            "username": "alice",
            "credentials": [{"type": "password", "value": SECRET}],
            "realmRoles": ["admin"],
        }
    ],
    "roles": {"realm": [{"name": "admin", "composites": {"realm": ["viewer"]}}, {"name": "viewer"}]},
    "scopeMappings": [{"clientScope": "s", "roles": ["admin"]}, {"client": "c", "roles": ["viewer"]}],
    "clientScopeMappings": {"c": [{"client": "c", "roles": ["x"]}]},
    "accessTokenLifespan": 300,
}
# <part console>
UPDATE = {
    "user": {
        "user_id": UUID,
        "email": "a@example.com",
        "state": "USER_STATE_ACTIVE",
        "createTime": "2026-01-31T12:00:00Z",
    },
    "updateMask": "displayName,state",
}
# </part console>
