"""Configuration of an issuer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gatehouse.oauth._http import url_fault

ProviderName = Literal["keycloak", "auth0", "okta"]
Mode = Literal["jwt", "introspection", "hybrid"]

ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """One issuer whose tokens are accepted.

    Attributes:
        issuer: Exact value that `iss` must have.
        audience: Value that `aud` must contain.
        provider: Provider whose claim layout to use.
        mode: `jwt`, `introspection`, or `hybrid` (signature first, then introspection).
        algorithms: Accepted `alg` values (RFC 7518), asymmetric only.
        discovery_url: URL of the metadata, if not under `issuer`.
        jwks_uri: URL of the keys, if not the one in the metadata.
        introspection_endpoint: URL for introspection, if not the one in the metadata.
        client_id: Client of this resource server, for introspection.
        client_secret: Its secret.
        revocation_budget_seconds: Maximum age of a cached verification; 0 verifies the token on each call.
        leeway_seconds: Accepted clock skew.
        allow_http: Whether plain HTTP to hosts other than loopback is allowed.
        ca_file: CA certificates to trust for this issuer, used by the code that creates the HTTP client.

    Raises:
        ValueError: An attribute is invalid; the message names it.
    """

    issuer: str
    audience: str
    provider: ProviderName = "keycloak"
    mode: Mode = "hybrid"
    algorithms: tuple[str, ...] = ("ES256", "RS256")
    discovery_url: str | None = None
    jwks_uri: str | None = None
    introspection_endpoint: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    revocation_budget_seconds: float = 30.0
    leeway_seconds: float = 60.0
    allow_http: bool = False
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience are required")
        if not self.algorithms or not ASYMMETRIC.issuperset(self.algorithms):
            raise ValueError(f"algorithms must be some of {', '.join(sorted(ASYMMETRIC))}")
        if self.mode != "jwt" and not (self.client_id and self.client_secret):
            raise ValueError(f"mode {self.mode} needs client_id and client_secret")
        for seconds in (self.revocation_budget_seconds, self.leeway_seconds):
            if not 0 <= seconds < math.inf:  # refuses NaN too, with which no token would ever expire
                raise ValueError(
                    "revocation_budget_seconds and leeway_seconds must be finite and not negative"
                )
        for name in ("issuer", "discovery_url", "jwks_uri", "introspection_endpoint"):
            url: str | None = getattr(self, name)
            # With a discovery_url, no request goes to the issuer URL itself.
            allow_http = self.allow_http or (name == "issuer" and self.discovery_url is not None)
            if url is not None and url_fault(url, allow_http=allow_http):
                raise ValueError(
                    f"{name} must be an https URL, or http on loopback; other http needs allow_http"
                )
