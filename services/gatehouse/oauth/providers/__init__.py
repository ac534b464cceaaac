"""What differs between identity providers: where metadata is, what an access token is, where roles stand."""

from __future__ import annotations

from typing import Protocol

from gatehouse.oauth.config import ProviderName
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import auth0, keycloak, okta


class Provider(Protocol):
    """A module that knows one provider."""

    @property
    def INTROSPECTS_SESSION(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether `acr` and `auth_time` of an introspection are the session's of now, not the token's."""
        ...

    def metadata_urls(self, issuer: str) -> tuple[str, ...]:
        """Where the metadata of `issuer` may be, likeliest first."""
        ...

    def is_access_token(self, claims: VerifiedClaims) -> bool:
        """Whether these are the claims of an access token, and not of an ID or refresh token."""
        ...

    def tells_roles(self, claims: VerifiedClaims) -> bool:
        """Whether an introspection with these claims says which roles there are, be it none."""
        ...

    def principal_from_claims(self, issuer: str, claims: VerifiedClaims) -> Principal:
        """Makes the principal of `claims`, whose `exp` has been checked."""
        ...


def provider(name: ProviderName) -> Provider:
    """Returns the provider of that name."""
    providers: dict[ProviderName, Provider] = {"keycloak": keycloak, "auth0": auth0, "okta": okta}
    return providers[name]
