"""The interface between a token and a principal."""

from __future__ import annotations

from typing import Protocol

from gatehouse.oauth.presented_token import PresentedToken
from gatehouse.oauth.principal import Principal


class TokenVerifier(Protocol):
    """Turns an access token into a principal."""

    async def verify(self, token: PresentedToken, *, online: bool = False) -> Principal:
        """Verify an access token.

        Args:
            token: The token.
            online: Ask the issuer now; do not answer from a cache.

        Raises:
            InvalidToken: The token is expired, revoked, malformed, or not for this service.
            IssuerUnavailable: The token cannot be verified at present.
        """
        ...
