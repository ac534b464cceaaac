"""Okta: scopes as a list in `scp`, roles as `groups`, the client in `cid`."""

from __future__ import annotations

from gatehouse.oauth.discovery import oidc_url
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read

INTROSPECTS_SESSION = False


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Okta has OpenID Connect's place, and RFC 8414's metadata after the path of the issuer, not before."""
    return (oidc_url(issuer), f"{issuer.rstrip('/')}/.well-known/oauth-authorization-server")


def is_access_token(claims: VerifiedClaims) -> bool:
    """Whether `cid` (signed) or an access `token_type` (introspected) is there; ID tokens have neither."""
    return "cid" in claims or (claims.get("token_type") == "Bearer" and "client_id" in claims)


def tells_roles(claims: VerifiedClaims) -> bool:
    """Whether `groups` is there; Okta's introspection leaves custom claims out."""
    return "groups" in claims


def principal_from_claims(issuer: str, claims: VerifiedClaims) -> Principal:
    """Makes the principal of Okta's claims, signed (`scp`, `cid`) or introspected (`scope`, `client_id`).

    Raises:
        InvalidToken: `sub` is missing.
    """
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.text(claims, "cid", "client_id"),
        scopes=_read.names(claims.get("scp")) | _read.words(claims.get("scope")),
        roles=_read.names(claims.get("groups")),
        expires_at=float(claims["exp"]),
        acr=_read.text(claims, "acr"),
        auth_time=_read.auth_time(claims),
        claims=_read.frozen(claims),
    )
