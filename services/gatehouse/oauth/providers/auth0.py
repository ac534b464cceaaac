"""Auth0: `permissions` of an API with RBAC, `scope`, roles in a namespaced claim."""

from __future__ import annotations

from gatehouse.oauth._names import Names
from gatehouse.oauth.discovery import oidc_url
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read

INTROSPECTS_SESSION = False


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the URL of OpenID Connect Discovery."""
    return (oidc_url(issuer),)


def is_access_token(claims: VerifiedClaims) -> bool:
    """Return whether this is a token for an API: ID tokens have no `scope`, `permissions` or `gty`."""
    return any(name in claims for name in ("scope", "permissions", "gty"))


def includes_roles(claims: VerifiedClaims) -> bool:
    """Return whether there is a `permissions` or roles claim."""
    return "permissions" in claims or any(_is_roles(name) for name in claims)


def principal_from_claims(issuer: str, claims: VerifiedClaims) -> Principal:
    """Return the principal described by Auth0's claims.

    Permissions count as scopes, because with RBAC enabled they are what the user was granted. Roles are read
    from the custom claim whose name ends in `/roles`, as added by an Auth0 action.

    Raises:
        InvalidToken: `sub` is missing, or it or the client id is malformed.
    """
    permissions = _read.names(claims.get("permissions"))
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.client(claims, "azp", "client_id"),
        scopes=_read.words(claims.get("scope")).union(permissions),
        roles=Names(role for name, value in claims.items() if _is_roles(name) for role in _read.names(value)),
        permissions=permissions,
        acr=_read.text(claims, "acr"),
    )


def _is_roles(name: str) -> bool:
    return name.startswith("https://") and name.endswith("/roles")
