"""Okta: scopes as a list in `scp`, roles as `groups`, the client in `cid`."""

from __future__ import annotations

from gatehouse.oauth.discovery import oidc_url
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import _read

INTROSPECTS_SESSION = False


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the URL of OpenID Connect Discovery, and that of RFC 8414 appended to the path of the issuer."""
    return (oidc_url(issuer), f"{issuer.rstrip('/')}/.well-known/oauth-authorization-server")


def is_access_token(claims: VerifiedClaims) -> bool:
    """Return whether there is a `cid` (signed) or `token_type` (introspected); ID tokens have neither."""
    return "cid" in claims or (claims.get("token_type") == "Bearer" and "client_id" in claims)


def includes_roles(claims: VerifiedClaims) -> bool:
    """Return whether there is a `groups` claim; Okta's introspection omits custom claims."""
    return "groups" in claims


def principal_from_claims(issuer: str, claims: VerifiedClaims) -> Principal:
    """Return the principal described by Okta's claims.

    Signed tokens have `scp` and `cid`, introspection responses `scope` and `client_id`.

    Raises:
        InvalidToken: `sub` is missing, or it or the client id is malformed.
    """
    return Principal(
        issuer=issuer,
        subject=_read.subject(claims),
        client_id=_read.client(claims, "cid", "client_id"),
        scopes=_read.words(claims.get("scope")).union(_read.names(claims.get("scp"))),
        roles=_read.names(claims.get("groups")),
        acr=_read.text(claims, "acr"),
    )
