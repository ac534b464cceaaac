"""Calls to other services on behalf of the caller of the current RPC."""

from __future__ import annotations

from gatehouse.client import ExchangedTokens, TokenSource, refuses_subject
from gatehouse.domain import PermissionDenied
from gatehouse.oauth import InvalidToken, TokenRequestFailed
from gatehouse.rpc import current_principal, current_token

# The issuer has decided about this caller; the other errors concern the client of the service.
_DENIALS = frozenset({"access_denied", "insufficient_scope"})


class CallerTokens:
    """A TokenSource for handlers: its tokens are for the caller of the current RPC.

    Args:
        exchanged: Exchanges the tokens of callers.
        issuer: The issuer that does; callers of other issuers are refused.
        scope_prefix: See IssuerSettings.
    """

    def __init__(self, exchanged: ExchangedTokens, issuer: str, scope_prefix: str = "") -> None:
        self._exchanged = exchanged
        self._issuer = issuer
        self._scopes = {name.removeprefix(scope_prefix) for name in exchanged.scope.split()}

    async def token(self) -> str:
        """Return a token for the caller; see TokenSource.

        Raises:
            PermissionDenied: The caller lacks a scope, is from another issuer, or the issuer denies it.
            InvalidToken: The issuer no longer accepts the token of the caller.
            TokenRequestFailed: The client of the service cannot exchange tokens.
            IssuerUnavailable: The issuer gave no usable response.
        """
        principal = current_principal()
        if principal.issuer != self._issuer:
            raise PermissionDenied(
                "CALLER_OF_OTHER_ISSUER",
                "another service must be called on your behalf, which this issuer of tokens does not allow",
            )
        if not self._scopes <= principal.scopes:
            raise PermissionDenied(
                "CALLER_LACKS_SCOPE",
                "another service must be called on your behalf; request a token that also has the scope "
                + " ".join(sorted(self._scopes)),
            )
        try:
            return await self._source().token()
        except TokenRequestFailed as error:
            if refuses_subject(error):
                raise InvalidToken("token_exchange_refused") from None
            if error.error in _DENIALS:
                raise PermissionDenied(
                    "TOKEN_EXCHANGE_DENIED",
                    "the issuer does not allow another service to be called on your behalf",
                    error.error.upper(),
                ) from None
            raise

    def invalidate(self, token: str) -> None:
        """See TokenSource."""
        self._source().invalidate(token)

    def _source(self) -> TokenSource:
        return self._exchanged.source(current_token(), current_principal().expires_at)
