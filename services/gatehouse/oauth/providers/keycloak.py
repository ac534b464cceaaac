"""Keycloak: realm roles in `realm_access`, client roles in `resource_access`, `typ` in the payload."""

from __future__ import annotations

from types import MappingProxyType

from gatehouse.oauth.discovery import oidc_url
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read

INTROSPECTS_SESSION = True


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the URL of OpenID Connect Discovery."""
    return (oidc_url(issuer),)


def is_access_token(claims: VerifiedClaims) -> bool:
    """Return whether payload `typ` is `Bearer`; ID tokens have `ID`, refresh tokens `Refresh`."""
    return claims.get("typ") == "Bearer"


def includes_roles(_: VerifiedClaims) -> bool:
    """Return True: Keycloak omits the claim if the user has no role."""
    return True


def principal_from_claims(issuer: str, claims: VerifiedClaims) -> Principal:
    """Return the principal described by Keycloak's claims, signed or introspected.

    Raises:
        InvalidToken: `sub` is missing, or it or the client id is malformed.
    """
    clients = _read.mapping(claims.get("resource_access"))
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.client(claims, "azp", "client_id"),
        scopes=_read.words(claims.get("scope")),
        roles=_read.names(_read.mapping(claims.get("realm_access")).get("roles")),
        client_roles=MappingProxyType(
            {client: _read.names(_read.mapping(access).get("roles")) for client, access in clients.items()}
        ),
        acr=_read.text(claims, "acr"),
    )
