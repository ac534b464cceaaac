"""What is known of an issuer before it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ProviderName = Literal["keycloak", "auth0", "okta"]
Mode = Literal["jwt", "introspection", "hybrid"]

ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """One issuer whose tokens are accepted.

    Attributes:
        issuer: What `iss` must be, to the letter.
        audience: What `aud` must contain.
        provider: Whose claims these are.
        mode: `jwt`, `introspection`, or `hybrid` (signature first, then introspection).
        algorithms: Accepted `alg` values (RFC 7518), asymmetric only.
        discovery_url: Where the metadata is reached, when not below `issuer`.
        jwks_uri: Where the keys are, when not where the metadata says.
        introspection_endpoint: Likewise for introspection.
        client_id: This resource server's client, for introspection.
        client_secret: Its secret.
        budget: Revocation budget in seconds: how old an answer may be.
        leeway: Accepted difference of clocks in seconds.
        allow_http: Whether plain HTTP beyond loopback is accepted.

    Raises:
        ValueError: The configuration cannot work; the text names the attribute.
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
    budget: float = 30.0
    leeway: float = 60.0
    allow_http: bool = False

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience are required")
        if not self.algorithms or not ASYMMETRIC.issuperset(self.algorithms):
            raise ValueError(f"algorithms must be some of {', '.join(sorted(ASYMMETRIC))}")
        if self.mode != "jwt" and not (self.client_id and self.client_secret):
            raise ValueError(f"mode {self.mode} needs client_id and client_secret")
