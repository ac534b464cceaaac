"""Issuer metadata: OpenID Connect Discovery 1.0 section 4 and RFC 8414."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from gatehouse.oauth._http import get_json, require_safe_url
from gatehouse.oauth.errors import IssuerUnavailable


@dataclass(frozen=True, slots=True)
class Metadata:
    """Where an issuer's endpoints are (RFC 8414 section 2); "" for one that it does not have."""

    issuer: str
    jwks_uri: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    introspection_endpoint: str = ""
    revocation_endpoint: str = ""
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of `issuer` may be: OIDC's place, then RFC 8414's (section 3.1)."""
    base = issuer.rstrip("/")
    url = httpx.URL(base)
    path = url.path.rstrip("/")
    rfc8414 = str(url.copy_with(path=f"/.well-known/oauth-authorization-server{path}"))
    return (f"{base}/.well-known/openid-configuration", rfc8414)


async def discover(
    http: httpx.AsyncClient, issuer: str, discovery_url: str | None = None, *, allow_http: bool = False
) -> Metadata:
    """Fetches and checks the metadata of an issuer.

    Args:
        http: Client to ask with.
        issuer: What `issuer` in the metadata must be, to the letter (RFC 8414 section 3.3).
        discovery_url: Where to ask, when not below `issuer`.
        allow_http: Whether plain HTTP beyond loopback is accepted.

    Raises:
        IssuerUnavailable: No metadata to be had, or not this issuer's.
    """
    urls = (discovery_url,) if discovery_url else metadata_urls(issuer)
    for url in urls[:-1]:
        try:
            return _checked(
                await get_json(http, url, allow_http=allow_http, what="discovery"), issuer, allow_http
            )
        except IssuerUnavailable as error:
            # Only "there is no such page" leads on to the other place.
            if error.reason != "discovery_failed":
                raise
    return _checked(
        await get_json(http, urls[-1], allow_http=allow_http, what="discovery"), issuer, allow_http
    )


def _checked(answer: object, issuer: str, allow_http: bool) -> Metadata:  # noqa: FBT001 - private
    assert isinstance(answer, dict)  # noqa: S101 - get_json returns nothing else
    if answer.get("issuer") != issuer:
        raise IssuerUnavailable("discovery_issuer_mismatch")
    endpoints = {}
    for name in Metadata.__slots__[1:]:
        value = answer.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise IssuerUnavailable("discovery_malformed")
        require_safe_url(value, allow_http=allow_http)
        endpoints[name] = value
    return Metadata(issuer=issuer, **endpoints)
