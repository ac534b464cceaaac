"""Auth0: `permissions` of an API with RBAC, `scope`, roles in a namespaced claim."""

from __future__ import annotations

from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read


def is_access_token(claims: VerifiedClaims) -> bool:
    """Whether this is for an API: ID tokens have `nonce` or hashes and no `scope`, `permissions` or `gty`."""
    return any(name in claims for name in ("scope", "permissions", "gty"))


def principal_from_claims(issuer: str, claims: VerifiedClaims, expires_at: float) -> Principal:
    """Makes the principal of Auth0's claims.

    Permissions count as scopes, since with RBAC on they are what the user was granted. Roles are read
    from the custom claim whose name ends in `/roles`, as Auth0's actions add it.

    Raises:
        InvalidToken: `sub` is missing.
    """
    permissions = _read.names(claims.get("permissions"))
    roles: frozenset[str] = frozenset()
    for name, value in claims.items():
        if name.startswith("https://") and name.endswith("/roles"):
            roles |= _read.names(value)
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.text(claims, "azp", "client_id"),
        scopes=_read.words(claims.get("scope")) | permissions,
        roles=roles,
        permissions=permissions,
        expires_at=expires_at,
        acr=_read.text(claims, "acr"),
        auth_time=_read.auth_time(claims),
        claims=claims,
    )
