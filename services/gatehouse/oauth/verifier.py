"""The interface between a token and a principal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gatehouse.oauth.presented_token import PresentedToken
from gatehouse.oauth.principal import Principal

Precheck = Callable[[Principal], None]


def no_precheck(_: Principal) -> None:
    """Accept every principal."""


class TokenVerifier(Protocol):
    """Turns an access token into a principal."""

    async def verify(
        self,
        token: PresentedToken,
        *,
        online: bool = False,
        precheck: Precheck = no_precheck,
        source: str = "",
    ) -> Principal:
        """Verify an access token.

        Args:
            token: The token.
            online: Ask the issuer now; do not use a cache.
            precheck: Called with the principal of the signed token, or a cached one, before a request to the
                issuer. Its roles may be out of date.
                Raises a Refusal if no response of the issuer can make the call acceptable.
            source: Where the token comes from, such as the peer of a call. When many tokens wait for the
                issuer, sources take turns.

        Raises:
            Refusal: By `precheck`.
            InvalidToken: The token is expired, revoked, malformed, or not for this service.
            IssuerUnavailable: The token cannot be verified now.
        """
        ...
