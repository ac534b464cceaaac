"""Where a channel gets the access token of each call."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class TokenSource(Protocol):
    """Supplies access tokens."""

    async def token(self) -> str:
        """Return an access token that is valid now.

        Raises:
            TokenRequestFailed: The token endpoint refused.
            IssuerUnavailable: The token endpoint gave no usable response.
        """
        ...

    def invalidate(self, token: str) -> None:
        """Drop `token`, which a service has rejected, so that the next call gets another one."""
        ...


@runtime_checkable
class CachingTokenSource(TokenSource, Protocol):
    """A TokenSource whose present token can be read without waiting."""

    def current(self) -> str | None:
        """Return the token if it needs no renewal, otherwise None. Can be called from any thread."""
        ...
