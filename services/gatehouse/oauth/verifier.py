"""The seam between a token and a principal."""

from __future__ import annotations

from typing import Protocol

from gatehouse.oauth.principal import Principal


class TokenVerifier(Protocol):
    """Turns an access token into a principal."""

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """Verifies one access token.

        Args:
            token: The token as it came, without its scheme. The caller has checked length and grammar.
            online: Ask the issuer now; no cached answer is good enough.

        Raises:
            InvalidToken: The token is expired, revoked, malformed, or not for here.
            IssuerUnavailable: Nothing can be said now.
        """
        ...

    def remembered(self, token: str) -> Principal | None:
        """Returns who brings a token that was verified before and may serve again; None says to verify it.

        The quick half of `verify`: it asks nobody and does not wait. A token that it knows is one that
        `verify` has accepted, letter by letter, so its length and grammar need not be looked at again.
        """
        ...
