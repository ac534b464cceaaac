"""Access tokens that the issuer is asked about: RFC 7662."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import httpx

from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._claims import check_claims
from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._http import send_json
from gatehouse.oauth.config import IssuerConfig
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.oauth.providers import Provider, provider

ANSWER_SECONDS = 1.0
INACTIVE_SECONDS = 10.0
INACTIVE_SIZE = 1_000
BREAKER_FAILURES = 5
BREAKER_SECONDS = 5.0


class Breaker:
    """Stops asking an issuer that does not answer; after a while one request may try again.

    Args:
        monotonic: Clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures = 0
        self._opens_at = 0.0

    def check(self) -> None:
        """Refuses while the breaker is open.

        Raises:
            IssuerUnavailable: `circuit_open`.
        """
        if self._failures >= BREAKER_FAILURES:
            now = self._monotonic()
            if now < self._opens_at:
                raise IssuerUnavailable("circuit_open")
            self._opens_at = now + BREAKER_SECONDS  # this one tries; the others wait for its outcome

    def record(self, *, ok: bool) -> None:
        """Takes the outcome of one request."""
        if ok:
            self._failures = 0
            return
        self._failures += 1
        self._opens_at = self._monotonic() + BREAKER_SECONDS


class IntrospectionVerifier:
    """Asks one issuer about its tokens.

    Good answers serve for the revocation budget, inactive ones for at most ten seconds and apart, so
    that junk cannot push them out. Errors are never kept.

    Args:
        config: The issuer.
        endpoint: Gives the introspection endpoint; raises IssuerUnavailable while it is not known.
        http: Client to ask with.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
    """

    def __init__(
        self,
        config: IssuerConfig,
        endpoint: Callable[[], Coroutine[Any, Any, str]],
        http: httpx.AsyncClient,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._http = http
        self._clock = clock
        self._provider: Provider = provider(config.provider)
        self._inactive: TokenCache[str] = TokenCache(INACTIVE_SIZE, monotonic)
        self._flight: SingleFlight[bytes, Principal] = SingleFlight()
        self._breaker = Breaker(monotonic)

    async def verify(self, token: str, *, online: bool = False) -> Principal:
        """Asks about one access token.

        Args:
            token: The token.
            online: Begin a request of its own: one that is under way may have been answered already.

        Raises:
            InvalidToken: It is not active, or not for here.
            IssuerUnavailable: The issuer gave no usable answer.
        """
        key = self._inactive.key(token)
        reason = self._inactive.get(key)
        if reason is not None and not online:
            raise InvalidToken(reason)
        try:
            if online:
                return await self._ask(token)
            return await self._flight.run(key, lambda: self._ask(token))
        except InvalidToken as error:
            self._inactive.put(key, error.reason, INACTIVE_SECONDS)
            raise

    async def aclose(self) -> None:
        """Ends what is under way."""
        await self._flight.aclose()

    async def _ask(self, token: str) -> Principal:
        self._breaker.check()
        try:
            answer = await self._answer(token)
        except IssuerUnavailable:
            self._breaker.record(ok=False)
            raise
        self._breaker.record(ok=True)
        if answer.get("active") is not True:
            raise InvalidToken("token_inactive")
        claims = VerifiedClaims(answer)
        expires_at = check_claims(
            claims,
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=self._clock(),
            leeway=self._config.leeway,
            issuer_required=False,
        )
        if not self._provider.is_access_token(claims):
            raise InvalidToken("token_type_mismatch")
        return self._provider.principal_from_claims(self._config.issuer, claims, expires_at)

    async def _answer(self, token: str) -> Mapping[str, Any]:
        endpoint = await self._endpoint()
        request = self._http.build_request(
            "POST",
            endpoint,
            data={
                "token": token,
                "token_type_hint": "access_token",
                "client_id": self._config.client_id,
                "client_secret": self._config.client_secret,
            },
            headers={"accept": "application/json"},
        )
        status, answer = await send_json(
            self._http,
            request,
            allow_http=self._config.allow_http,
            seconds=ANSWER_SECONDS,
            what="introspection",
        )
        if status != httpx.codes.OK or "active" not in answer:
            # 401 and 403 are this server's own credentials, not the caller's.
            raise IssuerUnavailable("introspection_refused")
        return answer
