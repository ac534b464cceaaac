"""Verification of access tokens by introspection (RFC 7662)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import replace
from typing import Any, NamedTuple

import httpx

from gatehouse.oauth._breaker import Breaker
from gatehouse.oauth._cache import TokenCache
from gatehouse.oauth._claim_reader import text
from gatehouse.oauth._claims import ClaimsVerifier, numeric_date
from gatehouse.oauth._fair_slots import FairSlots
from gatehouse.oauth._flight import SingleFlight
from gatehouse.oauth._http import post_form
from gatehouse.oauth.errors import InvalidToken, IssuerUnavailable, IssuerUnreachable
from gatehouse.oauth.presented_token import PresentedToken
from gatehouse.oauth.principal import Principal, VerifiedClaims
from gatehouse.settings import IssuerSettings, follow_secret

INACTIVE_SECONDS = 10.0
# The retries of a client's gRPC channel take longer together, so the last one asks the issuer again.
FAILED_SECONDS = 0.5
# Refused tokens that are remembered, and as many about which the issuer gave a bad response.
REMEMBERED = 1_000
# A token that is refused for another reason is still refused when the issuer is asked again.
_MAY_CHANGE = frozenset({"token_inactive", "token_not_yet_valid"})
# Time from one probe of an unreachable issuer to the next, and shortest time between them.
PROBE_SECONDS = 1.0
MIN_PAUSE_SECONDS = 0.1
OVERLOAD = "introspection_overload"
# Part of the time that a token may wait for its turn. After a longer wait the rest would not be enough for
# the request, and the issuer would be asked in vain.
QUEUE_FRACTION = 0.5
# The issuer as a whole, or the proxy in front of it, takes no requests now; see Breaker.
_NOT_NOW = frozenset(
    {
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.BAD_GATEWAY,
        httpx.codes.SERVICE_UNAVAILABLE,
        httpx.codes.GATEWAY_TIMEOUT,
    }
)


class Introspected(NamedTuple):
    """A valid introspection response.

    Attributes:
        principal: Who calls.
        lists_roles: Whether the response lists the current roles, even if there are none.
    """

    principal: Principal
    lists_roles: bool


class IntrospectionVerifier:
    """Verifies the tokens of one issuer by introspection. The caller caches valid tokens.

    Refused tokens are cached here, separately and for at most `INACTIVE_SECONDS`, so that invalid tokens
    cannot evict valid ones.

    After a bad response to one token, only that token fails, with IssuerUnavailable, and is not introspected
    again for `FAILED_SECONDS`. At most `max_introspections`
    tokens are introspected at once; others wait, and fail if they wait too long. While the issuer is
    unreachable, all tokens fail at once, see Breaker; until it responds, it is asked every `PROBE_SECONDS`
    about a random token.

    Args:
        config: The issuer, with `client_id` and `client_secret`.
        endpoint: Returns the introspection endpoint; raises IssuerUnavailable while it is unknown.
        http: HTTP client.
        claims: Checks its claims.
        monotonic: Clock in seconds.
        sleep: Waits for a number of seconds.
        on_response: Called after each request with its error, or None.
        timeout_seconds: Timeout of an introspection.
    """

    def __init__(
        self,
        config: IssuerSettings,
        endpoint: Callable[[], Awaitable[str]],
        http: httpx.AsyncClient,
        claims: ClaimsVerifier,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        on_response: Callable[[IssuerUnavailable | None], None],
        timeout_seconds: float,
    ) -> None:
        self._config = config
        self._read_secret = follow_secret("client_secret", config.client_secret, config.client_secret_file)
        self._endpoint = endpoint
        self._http = http
        self._claims = claims
        self._sleep = sleep
        self._on_response = on_response
        self._timeout_seconds = timeout_seconds
        self._inactive: TokenCache[str] = TokenCache(REMEMBERED, monotonic)
        self._failed: TokenCache[str] = TokenCache(REMEMBERED, monotonic)
        self._monotonic = monotonic
        self._slots = FairSlots(config.max_introspections)
        self._breaker = Breaker(monotonic)
        self._recovery: SingleFlight[None, None] = SingleFlight()

    async def aclose(self) -> None:
        """Stop all background work."""
        await self._recovery.aclose()

    async def verify(
        self, token: PresentedToken, token_hash: bytes, *, online: bool, source: str
    ) -> Introspected:
        """Verify an access token.

        Args:
            token: The token.
            token_hash: Its hash.
            online: Ask even if the token was inactive recently.
            source: Where the token comes from; sources take turns when many tokens wait.

        Raises:
            InvalidToken: The token is inactive, or not for this service.
            IssuerUnavailable: The issuer gave no valid response.
        """
        if token.jws is not None:
            # A token that is invalid by its own claims needs no request, whether genuine or forged.
            self._claims.check(token.jws.claims, required=())
        reason = self._inactive.get(token_hash)
        if reason is not None and not (online and reason in _MAY_CHANGE):
            raise InvalidToken(reason)
        failure = self._failed.get(token_hash)
        if failure is not None:
            raise IssuerUnavailable(failure)
        response = await self._ask(token_hash, token.value, source)
        try:
            principal = self._principal(token, response)
        except InvalidToken as refusal:
            self._inactive.put(token_hash, refusal.reason, INACTIVE_SECONDS)
            raise
        self._inactive.discard(token_hash)
        return Introspected(principal, self._claims.reader.lists_roles(VerifiedClaims(response)))

    def _principal(self, token: PresentedToken, response: Mapping[str, Any]) -> Principal:
        if response.get("active") is not True:
            raise InvalidToken("token_inactive")
        # RFC 7662 section 2.2: a response need not name the issuer.
        principal = self._claims.principal(VerifiedClaims(response), required=("aud", "exp"))
        token_type = response.get("token_type")
        if token_type is not None and str(token_type).lower() != "bearer":
            raise InvalidToken("token_type_mismatch")
        # The login is read from the token, which is now known to be the issuer's own. Introspection may
        # return the current login of the session instead.
        if token.jws is not None:
            claims = token.jws.claims
            if claims.get("sub", principal.subject) != principal.subject:
                raise InvalidToken("subject_mismatch")
            return replace(
                principal,
                expires_at=min(principal.expires_at, self._claims.expires_at(claims)),
                acr=text(claims, "acr"),
                auth_time=numeric_date(claims, "auth_time"),
            )
        if self._claims.reader.layout.introspects_session:
            return replace(principal, acr="", auth_time=None)
        return principal

    async def _ask(self, token_hash: bytes, token: str, source: str) -> Mapping[str, Any]:
        try:
            async with self._slots.slot(source, self._timeout_seconds * QUEUE_FRACTION):
                # Checked here, because the breaker may open while this call is waiting.
                if self._breaker.is_open():
                    self._recover_in_background()  # in case an unexpected error has stopped it
                    raise IssuerUnavailable("circuit_open")
                return await self._ask_now(token_hash, token)
        except TimeoutError:
            # Says nothing about the issuer, so the breaker does not count it.
            raise IssuerUnavailable(OVERLOAD) from None

    async def _ask_now(self, token_hash: bytes, token: str) -> Mapping[str, Any]:
        try:
            response = await self._request_in_time(token)
        except IssuerUnavailable as error:
            self._breaker.record(token_hash, reached=not isinstance(error, IssuerUnreachable))
            self._failed.put(token_hash, error.reason, FAILED_SECONDS)
            if self._breaker.is_open():
                self._recover_in_background()
            raise
        self._breaker.record(token_hash, reached=True)
        return response

    def _recover_in_background(self) -> None:
        # In a new context, because it does not belong to the call that happens to start it.
        Context().run(self._recovery.begin, None, self._recover)

    async def _recover(self) -> None:
        """Ask about random tokens until the issuer responds."""
        while self._breaker.is_open():
            started = self._monotonic()
            try:
                await self._request_in_time(secrets.token_urlsafe())
            except IssuerUnreachable:
                await self._sleep(max(MIN_PAUSE_SECONDS, started + PROBE_SECONDS - self._monotonic()))
                continue
            except IssuerUnavailable:
                pass  # a bad response is a response too
            self._breaker.close()

    async def _request_in_time(self, token: str) -> Mapping[str, Any]:
        response: Mapping[str, Any] | IssuerUnavailable
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._request(token)
        except TimeoutError:
            detail = f"no response within {self._timeout_seconds:.2g} s"
            response = IssuerUnreachable("introspection_timeout", detail=detail)
        except IssuerUnavailable as error:
            response = error
        if isinstance(response, IssuerUnavailable):
            self._on_response(response)
            raise response
        self._on_response(None)
        return response

    async def _request(self, token: str) -> Mapping[str, Any]:
        try:
            endpoint = await self._endpoint()
        except IssuerUnavailable as error:
            # Without its metadata, the issuer cannot be asked about any token.
            raise IssuerUnreachable(error.reason, detail=error.detail) from None
        response = await post_form(
            self._http,
            endpoint,
            {"token": token, "token_type_hint": "access_token"},
            (self._config.client_id or "", self._read_secret() or ""),
            allow_http=self._config.allow_http,
            what="introspection",
        )
        if response.status in _NOT_NOW:
            raise IssuerUnreachable("introspection_failed", detail=response.detail)
        if response.is_unavailable:
            raise IssuerUnavailable("introspection_failed", detail=response.detail)
        if response.status in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
            raise IssuerUnavailable("introspection_gone", detail=response.detail)
        if not response.ok:
            # 401 and 403 are about the credentials of this server, not about the token.
            raise IssuerUnavailable("introspection_refused", detail=response.detail)
        if response.body is None or "active" not in response.body:
            raise IssuerUnavailable("introspection_malformed", detail=response.detail)
        return response.body
