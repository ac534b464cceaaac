"""Whether a caller may: one `authorization` entry, its grammar, its token, the rule (RFC 6750)."""

from __future__ import annotations

import asyncio
import string
import time
from collections.abc import Callable, Sequence

from gatehouse.oauth import (
    InvalidRequest,
    InvalidToken,
    IssuerUnavailable,
    OAuthError,
    TokenVerifier,
)
from gatehouse.rpc._metadata import MAX_AUTHORIZATION_CHARS
from gatehouse.rpc.call import Call, Method, Next
from gatehouse.rpc.metrics import RpcMetrics

# RFC 6750 section 2.1: credentials = "Bearer" 1*SP b64token; b64token = 1*( these ) *"=".
_B64TOKEN = (string.ascii_letters + string.digits + "-._~+/").encode()


def bearer_token(entries: Sequence[str | bytes]) -> str:
    """Returns the token of the one `authorization` entry.

    Raises:
        InvalidToken: `token_missing`, there is no entry.
        InvalidRequest: There are several, or it is too long or not of the grammar of RFC 6750 section 2.1.
    """
    if not entries:
        raise InvalidToken("token_missing")
    if len(entries) > 1:
        raise InvalidRequest("authorization_repeated")
    entry = entries[0]
    if len(entry) > MAX_AUTHORIZATION_CHARS:
        raise InvalidRequest("authorization_too_long")
    if not isinstance(entry, str):
        raise InvalidRequest("authorization_malformed")
    scheme, _, rest = entry.partition(" ")
    token = rest.lstrip(" ")
    # Not by a regular expression: on a token of common length that takes three times as long.
    if (
        not entry.isascii()
        or scheme.lower() != "bearer"  # case-insensitive (RFC 9110 section 11.1)
        or not (body := token.rstrip("="))
        or body.encode().translate(None, _B64TOKEN)
    ):
        raise InvalidRequest("authorization_malformed")
    return token


class AuthorizationInterceptor:
    """Admits a call, or ends it before its request is read.

    A stream is cut when its token ends, and when a re-check finds it revoked or no longer enough.

    Args:
        verifier: Turns tokens into principals.
        metrics: Counts denials.
        recheck_seconds: Time between two re-checks of a stream.
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
        verify, clock, denied = self._verifier.verify, self._clock, self._metrics.denied
        remembered, online, check = self._verifier.remembered, rule.online, rule.check

        streams, guard = method.shape.streams, self._guard

        async def handle(call: Call) -> None:
            try:
                principal, entries = None, call.authorization
                # What is plain to see; bearer_token looks at the rest, and has reasons.
                if not online and len(entries) == 1:
                    entry = entries[0]
                    if (
                        isinstance(entry, str)
                        and entry[:7] == "Bearer "
                        and len(entry) <= MAX_AUTHORIZATION_CHARS
                    ):
                        principal = remembered(entry[7:])
                if principal is None:
                    principal = await verify(bearer_token(entries), online=online)
                check(principal, clock())
                token = bearer_token(entries) if streams else ""
            except OAuthError as error:
                denied(method, getattr(error, "reason", "other"))
                raise
            call.principal = principal
            if streams:
                await guard(call, token, call_next)
            else:
                await call_next(call)

        return handle

    async def _guard(self, call: Call, token: str, call_next: Next) -> None:
        """Answers a stream while its token is good."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a server runs in a task
        cut: list[Exception] = []

        async def watch() -> None:
            try:
                cut.append(await self._end_of(call, token))
            except Exception as error:  # noqa: BLE001 - a stream that nobody watches must not go on
                cut.append(error)
            task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await call_next(call)
        except asyncio.CancelledError:
            if not cut:
                raise
        finally:
            watcher.cancel()
        if cut:
            task.uncancel()
            raise cut[0]

    async def _end_of(self, call: Call, token: str) -> OAuthError:
        """Waits until the token is no longer good, and returns why."""
        rule = call.method.rule
        principal = call.principal
        while True:
            assert principal is not None  # noqa: S101 - admit has set it
            left = principal.expires_at - self._clock()
            await asyncio.sleep(max(0.0, min(left, self._recheck_seconds)))
            if self._clock() >= principal.expires_at:
                error: OAuthError = InvalidToken("token_expired")
                break
            try:
                async with asyncio.timeout(principal.expires_at - self._clock()):
                    fresh = await self._verifier.verify(token, online=rule.online)
                rule.check(fresh, self._clock())
            except (IssuerUnavailable, TimeoutError):
                # An outage does not make a token bad; it lives no longer than its own time.
                continue
            except OAuthError as refusal:
                error = refusal
                break
            call.principal = principal = fresh
        self._metrics.denied(call.method, getattr(error, "reason", "other"))
        return error
