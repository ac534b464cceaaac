"""Issuer metadata: OpenID Connect Discovery 1.0 section 4 and RFC 8414."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

import httpx

from gatehouse.oauth._http import get_object, request_url_error
from gatehouse.oauth.errors import IssuerUnavailable


@dataclass(frozen=True, slots=True)
class Metadata:
    """Endpoints of an issuer (RFC 8414 section 2); "" for an endpoint that it does not have."""

    issuer: str
    jwks_uri: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    introspection_endpoint: str = ""
    revocation_endpoint: str = ""
    device_authorization_endpoint: str = ""
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    iss_in_response: bool = False
    """Whether authorization responses contain `iss` (RFC 9207)."""
    mutual_tls: Mapping[str, str] = field(default_factory=dict)
    """Endpoints by name for clients with a certificate, if they differ (RFC 8705 section 5)."""

    def for_mutual_tls(self) -> Metadata:
        """Return the metadata for a client with a certificate."""
        endpoints: dict[str, Any] = dict(self.mutual_tls)
        return replace(self, **endpoints)


_ENDPOINTS = [field.name for field in fields(Metadata) if field.name.endswith(("_endpoint", "_uri"))]

# Those that a client itself sends requests to; the others have no aliases (RFC 8705 section 5).
_DIRECT_ENDPOINTS = (
    "token_endpoint",
    "introspection_endpoint",
    "revocation_endpoint",
    "device_authorization_endpoint",
    "userinfo_endpoint",
)


def oidc_url(issuer: str) -> str:
    """Return the metadata URL of `issuer` in OpenID Connect Discovery (section 4)."""
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def rfc8414_url(issuer: str) -> str:
    """Return the metadata URL of `issuer` in RFC 8414 (section 3.1): inserted before the path."""
    url = httpx.URL(issuer)
    return str(url.copy_with(path=f"/.well-known/oauth-authorization-server{url.path.rstrip('/')}"))


async def discover(
    http: httpx.AsyncClient,
    issuer: str,
    discovery_url: str | None = None,
    *,
    allow_http: bool = False,
) -> Metadata:
    """Fetch and check the metadata of an issuer, from the URL of OIDC or else that of RFC 8414.

    Args:
        http: HTTP client.
        issuer: Exact value that `issuer` in the metadata must have (RFC 8414 section 3.3).
        discovery_url: URL of the metadata, if not under `issuer`.
        allow_http: Whether plain HTTP to hosts other than loopback is allowed.

    Raises:
        IssuerUnavailable: There is no metadata, or it belongs to another issuer.
    """
    url = discovery_url or oidc_url(issuer)
    try:
        document = await get_object(http, url, allow_http=allow_http, what="discovery")
    except IssuerUnavailable as failure:
        # Only an HTTP error leads to the other URL.
        if discovery_url or failure.reason != "discovery_failed":
            raise
        url = rfc8414_url(issuer)
        try:
            document = await get_object(http, url, allow_http=allow_http, what="discovery")
        except IssuerUnavailable as other:
            # The first URL is the one that most issuers have.
            raise (failure if other.reason == failure.reason else other) from None
    return _checked(document, issuer, url, allow_http=allow_http)


def _checked(document: Mapping[str, Any], issuer: str, url: str, *, allow_http: bool) -> Metadata:
    found = document.get("issuer")
    if found != issuer:
        if not isinstance(found, str) or request_url_error(found, allow_http=True):
            found = "(no URL)"
        raise IssuerUnavailable("discovery_issuer_mismatch", detail=f"expected {issuer}, found {found}")
    # Metadata that came over https cannot send tokens and secrets over http, not even to loopback. That of an
    # issuer with an http URL names http endpoints for browsers.
    needs_https = not allow_http and {httpx.URL(url).scheme, httpx.URL(issuer).scheme} == {"https"}
    endpoints = _endpoints(document, allow_http=allow_http, needs_https=needs_https)
    aliases = document.get("mtls_endpoint_aliases")
    mutual_tls: dict[str, str] = {}
    if isinstance(aliases, Mapping):
        # Malformed ones must not keep those from verifying tokens who have no certificate.
        with suppress(IssuerUnavailable):
            mutual_tls = _endpoints(
                {name: aliases.get(name) for name in _DIRECT_ENDPOINTS},
                allow_http=allow_http,
                needs_https=needs_https,
            )
    iss_in_response = document.get("authorization_response_iss_parameter_supported") is True
    return Metadata(issuer=issuer, **endpoints, iss_in_response=iss_in_response, mutual_tls=mutual_tls)


def _endpoints(document: Mapping[str, Any], *, allow_http: bool, needs_https: bool) -> dict[str, str]:
    """Return the endpoints in a document."""
    endpoints: dict[str, str] = {}
    for name in _ENDPOINTS:
        value = document.get(name)
        if value is None:
            continue
        if (
            not isinstance(value, str)
            or request_url_error(value, allow_http=allow_http)
            or (needs_https and httpx.URL(value).scheme != "https")
        ):
            raise IssuerUnavailable("discovery_malformed", detail=f"{name} is not an https URL")
        endpoints[name] = value
    return endpoints
