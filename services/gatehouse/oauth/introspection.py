"""Access tokens that the issuer is asked about: RFC 7662."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._claims import check_claims, split
from gatehouse.oauth._http import post_form
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import Provider, _read, provider

INACTIVE_SECONDS = 10.0
INACTIVE_SIZE = 1_000
BREAKER_FAILURES = 5
BREAKER_SECONDS = 5.0
ENDPOINT_GONE = "introspection_gone"


class Breaker:
    """Stops asking an issuer that does not answer; after a while one request may try again.

    Args:
        monotonic: Clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._retry_at = 0.0

    def check(self) -> None:
        """Refuses while the breaker is open.

        Raises:
            IssuerUnavailable: `circuit_open`.
        """
        if self._failures < BREAKER_FAILURES:
            return
        now = self._monotonic()
        if now < self._retry_at:
            raise IssuerUnavailable("circuit_open")
        self._retry_at = now + BREAKER_SECONDS  # this one tries; the others wait for its outcome

    def record(self, *, ok: bool) -> None:
        """Takes the outcome of one request."""
        if ok:
            self._failures = 0
            return
        self._failures += 1
        self._retry_at = self._monotonic() + BREAKER_SECONDS


class IntrospectionVerifier:
    """Asks one issuer about its tokens; who calls it shares requests and keeps good answers.

    Refused tokens are kept here, apart and for at most ten seconds, so that junk cannot push good
    answers out. Errors are never kept.

    Args:
        config: The issuer, with `client_id` and `client_secret`.
        endpoint: Gives the introspection endpoint; raises IssuerUnavailable while it is not known.
        http: Client to ask with.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        answer_seconds: How long the issuer may take.
    """

    def __init__(
        self,
        config: IssuerConfig,
        endpoint: Callable[[], Awaitable[str]],
        http: httpx.AsyncClient,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        answer_seconds: float,
    ) -> None:
        self._config = config
        self._auth = (config.client_id or "", config.client_secret or "")
        self._endpoint = endpoint
        self._http = http
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._provider: Provider = provider(config.provider)
        context = (config.issuer, config.introspection_endpoint, config.client_id)
        self._inactive: TokenCache[str] = TokenCache(INACTIVE_SIZE, monotonic, context)
        self._breaker = Breaker(monotonic)

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """Asks about one access token.

        Args:
            token: The token.
            online: Ask even about a token that was refused a moment ago.

        Raises:
            InvalidToken: It is not active, or not for here.
            IssuerUnavailable: The issuer gave no usable answer.
        """
        key = self._inactive.key(token)
        reason = None if online else self._inactive.get(key)
        if reason is not None:
            raise InvalidToken(reason)
        answer = await self._ask(token)
        try:
            principal = self._principal(token, answer)
        except InvalidToken as refusal:
            self._inactive.put(key, refusal.reason, INACTIVE_SECONDS)
            raise
        self._inactive.discard(key)
        return principal

    def _principal(self, token: str, answer: Mapping[str, Any]) -> Principal:
        if answer.get("active") is not True:
            raise InvalidToken("token_inactive")
        claims = VerifiedClaims(answer)
        check_claims(
            claims,
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=self._clock(),
            leeway=self._config.leeway_seconds,
            issuer_required=False,
        )
        if not self._provider.is_access_token(claims):
            raise InvalidToken("token_type_mismatch")
        principal = self._provider.principal_from_claims(self._config.issuer, claims)
        # How the user logged in is what the token says, and that it is the issuer's own is now known. An
        # issuer may answer with the login of the session as it is by now.
        parts = split(token)
        if parts is not None:
            return replace(principal, acr=_read.text(parts[1], "acr"), auth_time=_read.auth_time(parts[1]))
        if self._provider.INTROSPECTS_SESSION:
            return replace(principal, acr="", auth_time=None)
        return principal

    async def _ask(self, token: str) -> Mapping[str, Any]:
        self._breaker.check()
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await self._answer(token)
        except TimeoutError:
            self._breaker.record(ok=False)
            raise IssuerUnavailable("introspection_timeout") from None
        except IssuerUnavailable:
            self._breaker.record(ok=False)
            raise
        self._breaker.record(ok=True)
        if answer is None:
            raise IssuerUnavailable("introspection_refused")
        return answer

    async def _answer(self, token: str) -> Mapping[str, Any] | None:
        """Returns the answer, or None when the issuer is there and refuses this server."""
        answer = await post_form(
            self._http,
            await self._endpoint(),
            {"token": token, "token_type_hint": "access_token"},
            self._auth,
            allow_http=self._config.allow_http,
            what="introspection",
        )
        if answer.away:
            raise IssuerUnavailable("introspection_failed")
        if answer.status in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
            raise IssuerUnavailable(ENDPOINT_GONE)
        if not answer.ok:
            # 401 and 403 are about this server's own credentials, not about the token.
            return None
        if answer.body is None or "active" not in answer.body:
            raise IssuerUnavailable("introspection_malformed")
        return answer.body
