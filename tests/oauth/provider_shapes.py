"""What each provider documents: claims of its tokens, its metadata, and errors of its token endpoint.

Times and the audience are added by the tests; hosts and ids are examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gatehouse.settings import ProviderName
from tests.support.oauth_issuers import AUDIENCE

Claims = Mapping[str, Any]
TENANT = "aaaabbbb-0000-cccc-1111-dddd2222eeee"


@dataclass(frozen=True)
class Shape:
    """What a provider documents.

    Attributes:
        name: What it is about.
        provider: Its preset.
        source: The page that documents it.
        settings: Further settings of the issuer.
        header: Members of the JOSE header besides `alg` and `kid`.
        token: Claims of an access token.
        caller: Attributes of the principal that they describe.
        others: Claims of tokens that must be refused.
        response: Introspection response; None if there is no introspection.
        metadata: Discovery document.
        error: Status and body of a refused token request.
    """

    name: str
    provider: ProviderName
    source: str
    token: Claims
    caller: Mapping[str, Any]
    others: tuple[Claims, ...]
    metadata: Mapping[str, Any]
    error: tuple[int, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=lambda: {"typ": "JWT"})
    response: Claims | None = None

    def __str__(self) -> str:
        return self.name


KEYCLOAK_TOKEN = {
    "sub": "1f2e",
    "aud": [AUDIENCE, "account"],
    "typ": "Bearer",
    "azp": "console",
    "acr": "1",
    "scope": "openid read:users",
    "realm_access": {"roles": ["admin"]},
    "resource_access": {"account": {"roles": ["view-profile"]}},
}
KEYCLOAK = Shape(
    "keycloak",
    "keycloak",
    "https://www.keycloak.org/securing-apps/oidc-layers, and a realm of Keycloak 26",
    KEYCLOAK_TOKEN,
    {"client_id": "console", "scopes": {"openid", "read:users"}, "roles": {"admin"}, "groups": set()},
    (KEYCLOAK_TOKEN | {"typ": "ID"}, KEYCLOAK_TOKEN | {"typ": "Refresh"}),
    {
        "issuer": "https://sso.example.com/realms/r",
        "token_endpoint": "https://sso.example.com/realms/r/protocol/openid-connect/token",
        "jwks_uri": "https://sso.example.com/realms/r/protocol/openid-connect/certs",
        "introspection_endpoint": "https://sso.example.com/realms/r/protocol/openid-connect/token/introspect",
    },
    (401, {"error": "unauthorized_client", "error_description": "Invalid client or Invalid credentials"}),
    response=KEYCLOAK_TOKEN | {"client_id": "console", "username": "alice", "token_type": "Bearer"},
)

AUTH0 = Shape(
    "auth0",
    "auth0",
    "https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles",
    {
        "sub": "auth0|123456",
        "aud": [AUDIENCE, "https://my-domain.auth0.com/userinfo"],
        "azp": "my_client_id",
        "scope": "openid profile read:users",
        "permissions": ["read:users", "delete:users"],
        "org_id": "org_9ybsU1dN2dKfDkBi",
        "https://example.com/roles": ["admin"],
    },
    {
        "client_id": "my_client_id",
        "scopes": {"openid", "profile", "read:users", "delete:users"},
        "permissions": {"read:users", "delete:users"},
        "roles": {"admin"},
        "tenant": "org_9ybsU1dN2dKfDkBi",
    },
    ({"sub": "auth0|123456", "aud": AUDIENCE, "nonce": "n", "sid": "s", "org_id": "org_9ybsU1dN2dKfDkBi"},),
    {
        "issuer": "https://my-domain.auth0.com/",
        "token_endpoint": "https://my-domain.auth0.com/oauth/token",
        "device_authorization_endpoint": "https://my-domain.auth0.com/oauth/device/code",
        "userinfo_endpoint": "https://my-domain.auth0.com/userinfo",
        "revocation_endpoint": "https://my-domain.auth0.com/oauth/revoke",
        "jwks_uri": "https://my-domain.auth0.com/.well-known/jwks.json",
    },
    (403, {"error": "access_denied", "error_description": "Service not enabled within domain: canary"}),
    {"role_claims": "https://example.com/roles[]"},
)

OKTA = Shape(
    "okta",
    "okta",
    "https://developer.okta.com/docs/api/openapi/okta-oauth/guides/overview/",
    {
        "ver": 1,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
        "sub": "alice@example.com",
        "aud": AUDIENCE,
        "cid": "0oabv6kx4qq6h1U5l0h7",
        "uid": "00ujmkLgagxeRrAg20g3",
        "scp": ["openid", "read:users"],
        "groups": ["Everyone", "Admins"],
    },
    {
        "client_id": "0oabv6kx4qq6h1U5l0h7",
        "scopes": {"openid", "read:users"},
        "roles": {"Everyone", "Admins"},
        "groups": {"Everyone", "Admins"},
    },
    ({"ver": 1, "sub": "00u", "aud": AUDIENCE, "idp": "00o", "amr": ["pwd"], "jti": "ID.a", "at_hash": "h"},),
    {
        "issuer": "https://org.okta.com/oauth2/default",
        "token_endpoint": "https://org.okta.com/oauth2/default/v1/token",
        "jwks_uri": "https://org.okta.com/oauth2/default/v1/keys",
        "introspection_endpoint": "https://org.okta.com/oauth2/default/v1/introspect",
        "revocation_endpoint": "https://org.okta.com/oauth2/default/v1/revoke",
    },
    (401, {"error": "invalid_client", "error_description": "The client secret supplied is invalid. canary"}),
    response={
        "token_type": "Bearer",
        "scope": "openid read:users",
        "client_id": "0oabv6kx4qq6h1U5l0h7",
        "username": "alice@example.com",
        "sub": "alice@example.com",
        "aud": AUDIENCE,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
    },
)

ENTRA_SOURCE = "https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference"
ENTRA_ERROR = {
    "error": "invalid_client",
    "error_description": "AADSTS7000215: Invalid client secret provided. canary",
    "error_codes": [7000215],
    "trace_id": "0000",
}
ENTRA = {"sub": "aBcD", "oid": "0000", "tid": TENANT, "aud": AUDIENCE}
ENTRA_V2 = Shape(
    "entra, version 2.0",
    "entra",
    ENTRA_SOURCE,
    ENTRA
    | {
        "ver": "2.0",
        "azp": "11112222",
        "azpacr": "1",
        "scp": "read:users write:users",
        "roles": ["admin"],
        "groups": ["eeeeffff"],
    },
    {
        "client_id": "11112222",
        "scopes": {"read:users", "write:users"},
        "roles": {"admin"},
        "groups": {"eeeeffff"},
        "tenant": TENANT,
    },
    (ENTRA | {"ver": "2.0", "nonce": "n", "roles": ["admin"], "preferred_username": "alice@example.com"},),
    {
        "issuer": f"https://login.microsoftonline.com/{TENANT}/v2.0",
        "token_endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
        "jwks_uri": f"https://login.microsoftonline.com/{TENANT}/discovery/v2.0/keys",
        "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo",
    },
    (401, ENTRA_ERROR),
)
ENTRA_V1 = Shape(
    "entra, version 1.0, of an application",
    "entra",
    ENTRA_SOURCE,
    ENTRA | {"ver": "1.0", "appid": "11112222", "appidacr": "1", "roles": ["admin"], "groups": "src1"},
    {"client_id": "11112222", "scopes": set(), "roles": {"admin"}, "groups": set(), "tenant": TENANT},
    (ENTRA | {"ver": "1.0", "amr": ["pwd"], "unique_name": "alice@example.com"},),
    {
        "issuer": f"https://sts.windows.net/{TENANT}/",
        "token_endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/token",
        "jwks_uri": "https://login.microsoftonline.com/common/discovery/keys",
    },
    (401, ENTRA_ERROR),
)

COGNITO = Shape(
    "cognito",
    "cognito",
    "https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-the-access-token"
    ".html",
    {
        "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "cognito:groups": ["admin"],
        "version": 2,
        "client_id": AUDIENCE,
        "origin_jti": "a",
        "event_id": "e",
        "token_use": "access",
        "scope": "openid https://api.example.com/read:users aws.cognito.signin.user.admin",
        "username": "alice",
    },
    {"client_id": AUDIENCE, "scopes": {"read:users"}, "roles": {"admin"}, "groups": {"admin"}},
    ({"sub": "a", "aud": AUDIENCE, "client_id": AUDIENCE, "token_use": "id", "cognito:username": "alice"},),
    {
        "issuer": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_EXAMPLE",
        "jwks_uri": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_EXAMPLE/.well-known/jwks.json",
        "token_endpoint": "https://mydomain.auth.eu-west-1.amazoncognito.com/oauth2/token",
        "revocation_endpoint": "https://mydomain.auth.eu-west-1.amazoncognito.com/oauth2/revoke",
    },
    (400, {"error": "invalid_client"}),
    {"scope_prefix": "https://api.example.com/"},
    header={},
)

GOOGLE_TOKEN = {
    "aud": AUDIENCE,
    "azp": "117",
    "sub": "117",
    "email": "worker@project.iam.gserviceaccount.com",
    "email_verified": True,
}
GOOGLE = Shape(
    "google",
    "google",
    "https://cloud.google.com/docs/authentication/get-id-token, and"
    " https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken",
    GOOGLE_TOKEN,
    {"client_id": "117", "scopes": set(), "roles": set()},
    (
        GOOGLE_TOKEN | {"email": "alice@example.com"},
        GOOGLE_TOKEN | {"email": "alice@gserviceaccount.com.example.com"},
        GOOGLE_TOKEN | {"email_verified": False},
        GOOGLE_TOKEN | {"email_verified": "yes"},
        {"aud": AUDIENCE, "azp": "117", "sub": "117"},
    ),
    {
        "issuer": "https://accounts.google.com",
        "device_authorization_endpoint": "https://oauth2.googleapis.com/device/code",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
        "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
    },
    (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature. canary"}),
    {"accept_id_tokens": True},
)

ZITADEL_TOKEN = {
    "sub": "170081374048888888",
    "aud": [AUDIENCE, "170086824411201793@gatehouse"],
    "jti": "V2_1",
    "urn:zitadel:iam:org:project:roles": {"admin": {"170086774599581953": "example.zitadel.cloud"}},
    "urn:zitadel:iam:user:resourceowner:id": "170086774599581953",
}
ZITADEL = Shape(
    "zitadel",
    "zitadel",
    "https://zitadel.com/docs/apis/openidoauth/claims",
    ZITADEL_TOKEN | {"azp": "170086824411201793@gatehouse"},
    {"client_id": "170086824411201793@gatehouse", "roles": {"admin"}, "tenant": "170086774599581953"},
    (
        {
            "sub": "170081374048888888",
            "aud": AUDIENCE,
            "azp": "170086824411201793@gatehouse",
            "amr": ["password"],
            "urn:zitadel:iam:org:project:roles": {"admin": {}},
        },
        ZITADEL_TOKEN | {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    ),
    {
        "issuer": "https://example.zitadel.cloud",
        "token_endpoint": "https://example.zitadel.cloud/oauth/v2/token",
        "introspection_endpoint": "https://example.zitadel.cloud/oauth/v2/introspect",
        "revocation_endpoint": "https://example.zitadel.cloud/oauth/v2/revoke",
        "jwks_uri": "https://example.zitadel.cloud/oauth/v2/keys",
    },
    (400, {"error": "invalid_client", "error_description": "invalid secret canary"}),
    response=ZITADEL_TOKEN
    | {
        "client_id": "170086824411201793@gatehouse",
        "token_type": "Bearer",
        "scope": "openid read:users",
        "username": "alice",
    },
)

AUTHENTIK_ID = {
    "sub": "5b0f",
    "aud": AUDIENCE,
    "acr": "goauthentik.io/providers/oauth2/default",
    "sid": "a",
    "nonce": "n",
    "groups": ["admin"],
}
AUTHENTIK = Shape(
    "authentik",
    "authentik",
    "https://docs.goauthentik.io/add-secure-apps/providers/oauth2/, and"
    " authentik/providers/oauth2/id_token.py of its source",
    AUTHENTIK_ID | {"azp": AUDIENCE, "uid": "u", "scope": "openid read:users"},
    {"client_id": AUDIENCE, "scopes": {"openid", "read:users"}, "roles": {"admin"}, "groups": {"admin"}},
    (AUTHENTIK_ID, AUTHENTIK_ID | {"at_hash": "h", "c_hash": "c"}),
    {
        "issuer": "https://authentik.example.com/application/o/gatehouse/",
        "token_endpoint": "https://authentik.example.com/application/o/token/",
        "introspection_endpoint": "https://authentik.example.com/application/o/introspect/",
        "revocation_endpoint": "https://authentik.example.com/application/o/revoke/",
        "jwks_uri": "https://authentik.example.com/application/o/gatehouse/jwks/",
    },
    (400, {"error": "invalid_client", "error_description": "Client authentication failed. canary"}),
    response=AUTHENTIK_ID | {"client_id": AUDIENCE, "scope": "openid read:users"},
)

GENERIC_TOKEN = {
    "sub": "5ba552d67",
    "aud": AUDIENCE,
    "client_id": "s6BhdRkqt3",
    "jti": "dbe39bf3a3ba4238a513f51d6e1691c4",
    "scope": "openid read:users",
    "roles": ["admin"],
    "groups": ["staff"],
    "entitlements": ["export"],
}
GENERIC = Shape(
    "generic",
    "generic",
    "RFC 9068 sections 2 and 3, RFC 7662 section 2.2, RFC 8414 section 3.2, RFC 6749 section 5.2",
    GENERIC_TOKEN,
    {
        "client_id": "s6BhdRkqt3",
        "scopes": {"openid", "read:users"},
        "roles": {"admin"},
        "groups": {"staff"},
        "permissions": {"export"},
    },
    (),
    {
        "issuer": "https://server.example.com",
        "token_endpoint": "https://server.example.com/token",
        "jwks_uri": "https://server.example.com/jwks.json",
        "introspection_endpoint": "https://server.example.com/introspect",
    },
    (401, {"error": "invalid_client"}),
    header={"typ": "at+jwt"},
    response=GENERIC_TOKEN | {"token_type": "Bearer"},
)

SHAPES = [
    KEYCLOAK,
    AUTH0,
    OKTA,
    ENTRA_V2,
    ENTRA_V1,
    COGNITO,
    GOOGLE,
    ZITADEL,
    AUTHENTIK,
    GENERIC,
]
