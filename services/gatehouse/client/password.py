"""The password grant (RFC 6749 section 4.3), which is legacy: RFC 9700 section 2.4 forbids it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from gatehouse.client.client_auth import Secret, read_secret
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse

LEGACY = (
    "the password grant is legacy: the program sees the password, and no second factor or single sign-on is "
    "possible (RFC 9700 section 2.4); use a browser or device login"
)


@dataclass(frozen=True, slots=True)
class PasswordGrant:
    """A Grant that requests the token of a user with the password. Warns, because it is legacy.

    Args:
        client: The client that the user has typed the password into.
        username: User name.
        password: Password, or what reads it for each request.
        scope: Scopes to request, separated by spaces.
        audience: `audience` to request, which some issuers need.
        resource: Values of `resource` (RFC 8707) to request, separated by spaces.
    """

    client: OAuthClient
    username: str
    password: Secret = field(repr=False)
    scope: str = ""
    audience: str = ""
    resource: str = ""

    def __post_init__(self) -> None:
        """Warn where the grant is made."""
        warnings.warn(LEGACY, stacklevel=3)

    async def request(self) -> TokenResponse:
        """See Grant."""
        return await self.client.request_token(
            {
                "grant_type": "password",
                "username": self.username,
                "password": read_secret(self.password),
                "scope": self.scope,
                "audience": self.audience,
                "resource": self.resource.split(),
            }
        )
