"""Tokens to call another service on behalf of callers, by token exchange (RFC 8693)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

from gatehouse.client.fixed_token import StaticToken
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.client.token_exchange import TokenExchange, refuses_subject
from gatehouse.client.token_manager import TokenManager
from gatehouse.client.token_source import TokenSource
from gatehouse.oauth import OAuthError, TokenCache, TokenHasher, TokenRequestFailed

MAX_CALLERS = 1_000


class ExchangedTokens:
    """Exchanges the tokens of callers, and keeps one TokenSource for each of at most MAX_CALLERS tokens.

    A token that was exchanged is used until it, or the token of the caller, expires.

    Args:
        client: The client that exchanges.
        scope: Scopes to request, separated by spaces. Callers must have all of them: an issuer may grant what
            the client may have, even if the token of the caller lacks it.
        audience: `audience` to request, or "".
        resource: Values of `resource` (RFC 8707), separated by spaces.
        sensitive_scopes: A response that grants one of these without a request for it is refused.
        on_response: Called after each request with its error, or None; that a token was refused is no error.
        clock: Seconds since the epoch.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        client: OAuthClient,
        scope: str,
        audience: str = "",
        resource: str = "",
        *,
        sensitive_scopes: Collection[str] = (),
        on_response: Callable[[OAuthError | None], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scope = scope
        self._client = client
        self._audience = audience
        self._resource = resource
        self._unwanted = frozenset(sensitive_scopes).difference(scope.split())
        self._on_response = on_response
        self._clock = clock
        self._monotonic = monotonic
        self._hasher = TokenHasher()
        self._sources: TokenCache[TokenManager] = TokenCache(MAX_CALLERS, monotonic)

    def source(self, token: str, expires_at: float) -> TokenSource:
        """Return the source of the tokens for a caller.

        Args:
            token: Access token of the caller, which has been verified.
            expires_at: When it ceases to be accepted, in seconds since the epoch.
        """
        key = self._hasher.hash(token)
        source = self._sources.get(key)
        if source is None:
            exchange = TokenExchange(
                self._client, StaticToken(token), self.scope, self._audience, self._resource
            )
            grant = _ForCaller(exchange, expires_at, self._unwanted, self._clock)
            source = TokenManager(grant, on_response=self._answered, monotonic=self._monotonic)
            self._sources.put(key, source, expires_at - self._clock())
        return source

    def _answered(self, error: OAuthError | None) -> None:
        refused = isinstance(error, TokenRequestFailed) and refuses_subject(error)
        self._on_response(None if refused else error)


class _ForCaller:
    """A Grant whose tokens end with the token of the caller, at the latest."""

    def __init__(
        self,
        exchange: TokenExchange,
        expires_at: float,
        unwanted: frozenset[str],
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._expires_at = expires_at
        self._unwanted = unwanted
        self._clock = clock

    async def request(self) -> TokenResponse:
        """See Grant.

        Raises:
            TokenRequestFailed: `scope_widened`, if the issuer grants what was not requested.
        """
        response = await self._exchange.request()
        if not self._unwanted.isdisjoint(response.scope.split()):
            raise TokenRequestFailed("scope_widened", detail="granted scopes that were not requested")
        return replace(response, expires_in=min(response.expires_in, self._expires_at - self._clock()))
