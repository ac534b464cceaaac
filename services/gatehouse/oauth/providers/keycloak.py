"""Keycloak: realm roles in `realm_access`, client roles in `resource_access`, `typ` in the payload."""

from __future__ import annotations

from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read


def is_access_token(claims: VerifiedClaims) -> bool:
    """Whether payload `typ` is `Bearer`; Keycloak marks ID tokens `ID` and refresh tokens `Refresh`."""
    return claims.get("typ") == "Bearer"


def principal_from_claims(issuer: str, claims: VerifiedClaims, expires_at: float) -> Principal:
    """Makes the principal of Keycloak's claims, signed or introspected.

    Raises:
        InvalidToken: `sub` is missing.
    """
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.text(claims, "azp", "client_id"),
        scopes=_read.words(claims.get("scope")),
        roles=_read.names(_read.mapping(claims.get("realm_access")).get("roles")),
        client_roles={
            client: _read.names(_read.mapping(access).get("roles"))
            for client, access in _read.mapping(claims.get("resource_access")).items()
        },
        expires_at=expires_at,
        acr=_read.text(claims, "acr"),
        auth_time=_read.auth_time(claims),
        claims=claims,
    )
