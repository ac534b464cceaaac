"""What differs between identity providers: URL of the metadata, access token type, claims of roles."""

from __future__ import annotations

from typing import Protocol

from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import auth0, keycloak, okta
from gatehouse.settings import ProviderName


class Provider(Protocol):
    """The module of one provider."""

    @property
    def INTROSPECTS_SESSION(self) -> bool:  # noqa: N802 - a constant of the module
        """Whether introspection returns `acr` and `auth_time` of the current session, not of the token."""
        ...

    def metadata_urls(self, issuer: str) -> tuple[str, ...]:
        """Return the possible metadata URLs of `issuer`, the most likely first."""
        ...

    def is_access_token(self, claims: VerifiedClaims) -> bool:
        """Return whether these are claims of an access token, not of an ID or refresh token."""
        ...

    def includes_roles(self, claims: VerifiedClaims) -> bool:
        """Return whether an introspection response with these claims lists the roles, even if empty."""
        ...

    def principal_from_claims(self, issuer: str, claims: VerifiedClaims) -> Principal:
        """Return the principal with the rights in `claims`; ClaimsVerifier adds times and other claims."""
        ...


def provider(name: ProviderName) -> Provider:
    """Return the module of a provider."""
    providers: dict[ProviderName, Provider] = {"keycloak": keycloak, "auth0": auth0, "okta": okta}
    return providers[name]
