"""The client credentials grant (RFC 6749 section 4.4): a client asks for a token of its own."""

from __future__ import annotations

from dataclasses import dataclass

from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A Grant that requests the token of a client.

    Args:
        client: The client.
        scope: Scopes to request, separated by spaces.
        audience: `audience` to request, which some issuers need.
        resource: Values of `resource` (RFC 8707) to request, separated by spaces.
    """

    client: OAuthClient
    scope: str = ""
    audience: str | None = None
    resource: str = ""

    async def request(self) -> TokenResponse:
        """See Grant."""
        return await self.client.request_token(
            {
                "grant_type": "client_credentials",
                "scope": self.scope,
                "audience": self.audience or "",
                "resource": self.resource.split(),
            }
        )
