"""What differs between identity providers: which token is an access token, and where roles stand."""

from __future__ import annotations

from typing import Protocol

from gatehouse.oauth.config import ProviderName
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import auth0, keycloak, okta


class Provider(Protocol):
    """A module that knows one provider."""

    def is_access_token(self, claims: VerifiedClaims) -> bool:
        """Whether these are the claims of an access token, and not of an ID or refresh token."""
        ...

    def principal_from_claims(self, issuer: str, claims: VerifiedClaims, expires_at: float) -> Principal:
        """Makes the principal of `claims`."""
        ...


def provider(name: ProviderName) -> Provider:
    """Returns the provider of that name."""
    providers: dict[ProviderName, Provider] = {"keycloak": keycloak, "auth0": auth0, "okta": okta}
    return providers[name]
