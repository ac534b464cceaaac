"""How much at once and for how long: load above the limit is refused, a longer deadline is cut."""

from __future__ import annotations

import asyncio

import grpc

from gatehouse.rpc.call import Call, Method, Next, Status
from gatehouse.rpc.errors import StatusError, error_info

_OVERLOADED = Status(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "the server is at its limit, try again later",
    "OVERLOADED",
    (error_info("OVERLOADED"),),
)
_TOO_LONG = Status(
    grpc.StatusCode.DEADLINE_EXCEEDED, "the longest deadline of this server passed", "DEADLINE_EXCEEDED"
)


class LimitsInterceptor:
    """Holds the number of calls and their time below limits; health checks are always let in.

    Args:
        max_concurrent_rpcs: Greatest number of calls at once.
        max_deadline_seconds: Longest time of a unary call.
        max_stream_deadline_seconds: Longest time of a stream.
    """

    def __init__(
        self, *, max_concurrent_rpcs: int, max_deadline_seconds: float, max_stream_deadline_seconds: float
    ) -> None:
        self._limit = max_concurrent_rpcs
        self._unary_seconds = max_deadline_seconds
        self._stream_seconds = max_stream_deadline_seconds
        self._running = 0

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        if not method.observed:
            return call_next
        longest = self._stream_seconds if method.shape.streams else self._unary_seconds

        async def handle(call: Call) -> None:
            if self._running >= self._limit:
                raise StatusError(_OVERLOADED)
            self._running += 1
            try:
                remaining = call.context.time_remaining()
                if remaining is not None and remaining <= longest:
                    await call_next(call)  # the caller's own deadline ends it
                    return
                timer = asyncio.timeout(longest)
                try:
                    async with timer:
                        await call_next(call)
                except TimeoutError:
                    if not timer.expired():
                        raise
                    raise StatusError(_TOO_LONG) from None
            finally:
                self._running -= 1

        return handle
