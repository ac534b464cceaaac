"""Auth0: `permissions` of an API with RBAC, `scope`, roles in a namespaced claim."""

from __future__ import annotations

from gatehouse.oauth.discovery import oidc_url
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read

INTROSPECTS_SESSION = False


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Auth0 has OpenID Connect's place."""
    return (oidc_url(issuer),)


def is_access_token(claims: VerifiedClaims) -> bool:
    """Whether this is for an API: ID tokens have `nonce` or hashes and no `scope`, `permissions` or `gty`."""
    return any(name in claims for name in ("scope", "permissions", "gty"))


def tells_roles(claims: VerifiedClaims) -> bool:
    """Whether `permissions` or a roles claim is there."""
    return "permissions" in claims or any(_is_roles(name) for name in claims)


def principal_from_claims(issuer: str, claims: VerifiedClaims) -> Principal:
    """Makes the principal of Auth0's claims.

    Permissions count as scopes, since with RBAC on they are what the user was granted. Roles are read
    from the custom claim whose name ends in `/roles`, as Auth0's actions add it.

    Raises:
        InvalidToken: `sub` is missing.
    """
    permissions = _read.names(claims.get("permissions"))
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.text(claims, "azp", "client_id"),
        scopes=_read.words(claims.get("scope")) | permissions,
        roles=frozenset().union(*(_read.names(value) for name, value in claims.items() if _is_roles(name))),
        permissions=permissions,
        expires_at=float(claims["exp"]),
        acr=_read.text(claims, "acr"),
        auth_time=_read.auth_time(claims),
        claims=_read.frozen(claims),
    )


def _is_roles(name: str) -> bool:
    return name.startswith("https://") and name.endswith("/roles")
