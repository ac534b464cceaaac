"""Limits that a server sets its callers: size of the metadata, calls at once, and time."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc

from gatehouse.rpc._metadata import MAX_ENTRIES
from gatehouse.rpc.call import Call, Method, Next, Status
from gatehouse.rpc.errors import StatusError, error_info


def _exhausted(reason: str, message: str) -> Status:
    return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, message, reason, (error_info(reason),))


_OVERLOADED = _exhausted("OVERLOADED", "the server is at its limit, try again later")
_TOO_LONG = Status(
    grpc.StatusCode.DEADLINE_EXCEEDED, "the longest deadline of this server passed", "DEADLINE_EXCEEDED"
)


class MetadataInterceptor:
    """Refuse a call whose metadata is too large, before any other layer acts on it.

    Args:
        max_bytes: The limit that the metadata was read with.
    """

    def __init__(self, max_bytes: int) -> None:
        self._too_large = _exhausted(
            "METADATA_TOO_LARGE",
            f"the metadata is too large; send at most {max_bytes} bytes in {MAX_ENTRIES} entries",
        )

    def intercept(self, method: Method, call_next: Next) -> Next:  # noqa: ARG002 - the same for all methods
        """See Interceptor.intercept."""

        async def handle(call: Call) -> None:
            if call.metadata_too_large:
                raise StatusError(self._too_large)
            await call_next(call)

        return handle


async def _call_within(seconds: float, call: Call, call_next: Next) -> None:
    """Run the rest of the chain; end it after `seconds` unless the caller's own deadline comes first."""
    remaining = call.deadline_seconds()
    if remaining is not None and remaining <= seconds:
        await call_next(call)
        return
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            await call_next(call)
    except TimeoutError:
        if not timer.expired():
            raise
        raise StatusError(_TOO_LONG) from None


class LimitsInterceptor:
    """Limit the number of calls and their time.

    Health checks have limits of their own, so that a server under load still answers them: a Check is limited
    in time, and a Watch, which has no natural end, in number.

    Args:
        max_concurrent_rpcs: Most calls at once.
        max_deadline_seconds: Longest time of a unary call.
        max_stream_deadline_seconds: Longest time of a stream.
        max_watches_per_connection: Most health watches at once on one connection.
        max_watches: Most health watches at once on all connections.
    """

    def __init__(
        self,
        *,
        max_concurrent_rpcs: int,
        max_deadline_seconds: float,
        max_stream_deadline_seconds: float,
        max_watches_per_connection: int,
        max_watches: int,
    ) -> None:
        self._limit = max_concurrent_rpcs
        self._unary_seconds = max_deadline_seconds
        self._stream_seconds = max_stream_deadline_seconds
        self._running = 0
        self._watches: Counter[str] = Counter()  # by connection
        self._max_watches_per_connection = max_watches_per_connection
        self._max_watches = max_watches
        self._too_many_on_connection, self._too_many = (
            _exhausted("TOO_MANY_WATCHES", f"too many health watches on this {where}; the limit is {limit}")
            for where, limit in (("connection", max_watches_per_connection), ("server", max_watches))
        )

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        longest = self._stream_seconds if method.shape.streams else self._unary_seconds

        async def handle(call: Call) -> None:
            if self._running >= self._limit:
                raise StatusError(_OVERLOADED)
            self._running += 1
            try:
                await _call_within(longest, call, call_next)
            finally:
                self._running -= 1

        async def check(call: Call) -> None:
            await _call_within(longest, call, call_next)

        async def watch(call: Call) -> None:
            watches, connection = self._watches, call.context.peer()
            if watches[connection] >= self._max_watches_per_connection:
                raise StatusError(self._too_many_on_connection)
            if watches.total() >= self._max_watches:
                raise StatusError(self._too_many)
            watches[connection] += 1
            try:
                await call_next(call)
            finally:
                watches[connection] -= 1
                if not watches[connection]:
                    del watches[connection]

        if method.observed:
            return handle
        return watch if method.shape.streams else check
