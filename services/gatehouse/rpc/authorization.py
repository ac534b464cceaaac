"""Authorization of calls: parse the credentials, verify the token, check the access rule (RFC 6750)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gatehouse.oauth import (
    InvalidToken,
    IssuerUnavailable,
    PresentedToken,
    Principal,
    Refusal,
    TokenVerifier,
    parse_authorization,
)
from gatehouse.rpc.call import Call, Method, Next
from gatehouse.rpc.metrics import RpcMetrics


class AuthorizationInterceptor:
    """Admits a call, or refuses it before its request is read.

    A stream is cancelled when its token expires, and when a periodic check finds that the token was revoked
    or no longer satisfies the rule.

    Args:
        verifier: Turns tokens into principals.
        metrics: Counts denials.
        recheck_seconds: Time between two checks of a stream's token.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        metrics: RpcMetrics,
        *,
        recheck_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._metrics = metrics
        self._recheck_seconds = recheck_seconds
        self._clock = clock

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        rule = method.rule
        if rule.public:
            return call_next

        async def handle(call: Call) -> None:
            try:
                token = parse_authorization(call.metadata.authorization)
                principal = await self._verify(call, token)
                call.token = token
            except Refusal as refusal:
                self._metrics.denied(method, refusal.reason)
                raise
            if method.rpc_type.streams:
                await self._watch(call, token, principal, call_next)
            else:
                await call_next(call)

        return handle

    async def _verify(self, call: Call, token: PresentedToken) -> Principal:
        """Verify the token and check the rule; the log also names a caller whom the rule refuses."""
        rule = call.method.rule

        def precheck(signed: Principal) -> None:
            try:
                rule.check_token(signed, self._clock())
            except Refusal:
                call.principal = signed
                raise

        principal = await self._verifier.verify(
            token, online=rule.online, precheck=precheck, source=call.context.peer()
        )
        call.principal = principal
        rule.check(principal, self._clock())
        return principal

    async def _watch(self, call: Call, token: PresentedToken, principal: Principal, call_next: Next) -> None:
        """Run the rest of the chain for a stream, and cancel it when its token is no longer valid."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a server runs in a task
        reasons: list[Exception] = []

        async def cancel_when_invalid() -> None:
            try:
                reasons.append(await self._until_invalid(call, token, principal))
            except Exception as error:  # noqa: BLE001 - a stream must not continue without this check
                reasons.append(error)
            task.cancel()

        watcher = asyncio.create_task(cancel_when_invalid())
        try:
            await call_next(call)
        except asyncio.CancelledError:
            if not reasons:
                raise
        finally:
            watcher.cancel()
        if reasons:
            task.uncancel()
            raise reasons[0]

    async def _until_invalid(self, call: Call, token: PresentedToken, principal: Principal) -> Refusal:
        """Wait until the token is no longer valid, and return why."""
        while True:
            remaining = principal.expires_at - self._clock()
            await asyncio.sleep(max(0.0, min(remaining, self._recheck_seconds)))
            remaining = principal.expires_at - self._clock()
            if remaining <= 0:
                error: Refusal = InvalidToken("token_expired")
                break
            try:
                async with asyncio.timeout(remaining):
                    principal = await self._verify(call, token)
            except (IssuerUnavailable, TimeoutError):
                # An outage does not invalidate a token; it stays valid until it expires.
                continue
            except Refusal as refusal:
                error = refusal
                break
        self._metrics.denied(call.method, error.reason)
        return error
