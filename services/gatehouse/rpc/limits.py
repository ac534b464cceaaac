"""Limits of the server: size of the metadata, concurrent calls, and their duration."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc

from gatehouse.rpc._metadata import MAX_ENTRIES
from gatehouse.rpc.call import Call, Method, Next, Status
from gatehouse.rpc.errors import StatusError, error_info
from gatehouse.settings import ServerSettings


def _exhausted(reason: str, message: str) -> Status:
    return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, message, reason, (error_info(reason),))


_OVERLOADED = _exhausted("OVERLOADED", "the server is overloaded; retry later")
_TOO_LONG = Status(
    grpc.StatusCode.DEADLINE_EXCEEDED,
    "exceeded the server's limit on the duration of calls",
    "DEADLINE_EXCEEDED",
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
            if call.metadata.too_large:
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
    """Limit the number of concurrent calls and their duration.

    Streams, which may be idle for long, do not count against the limit of unary calls.

    Health checks have limits of their own, so that a server under load still answers them: a Check is limited
    in duration, and a Watch, which runs until the client ends it, in number.

    Args:
        settings: The limits.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._running: Counter[bool] = Counter()  # unary calls and streams
        self._watches: Counter[str] = Counter()  # by connection
        self._too_many_on_connection, self._too_many = (
            _exhausted("TOO_MANY_WATCHES", f"too many health watches on this {where}; the limit is {limit}")
            for where, limit in (
                ("connection", settings.max_watches_per_connection),
                ("server", settings.max_watches),
            )
        )

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        settings, streams = self._settings, method.rpc_type.streams
        seconds = settings.max_stream_deadline_seconds if streams else settings.max_deadline_seconds
        running, limit = self._running, settings.max_streams if streams else settings.max_concurrent_rpcs

        async def handle(call: Call) -> None:
            if running[streams] >= limit:
                raise StatusError(_OVERLOADED)
            running[streams] += 1
            try:
                await _call_within(seconds, call, call_next)
            finally:
                running[streams] -= 1

        async def check(call: Call) -> None:
            await _call_within(seconds, call, call_next)

        async def watch(call: Call) -> None:
            watches, connection = self._watches, call.context.peer()
            if watches[connection] >= settings.max_watches_per_connection:
                raise StatusError(self._too_many_on_connection)
            if watches.total() >= settings.max_watches:
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
        return watch if streams else check
