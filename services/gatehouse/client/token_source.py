"""Where a client gets its access tokens."""

from __future__ import annotations

from typing import Protocol


class TokenSource(Protocol):
    """Gives a client its access token."""

    async def token(self) -> str:
        """Returns an access token that is valid now.

        Raises:
            TokenRequestFailed: The token endpoint refused.
            IssuerUnavailable: It could not be asked.
        """
        ...

    def invalidate(self, token: str) -> None:
        """Says that `token` was refused, so that the next call gets a fresh one, unless this is fresh."""
        ...
