"""Asks for a trace over Jaeger's query API, be it Jaeger's or the demo's."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

import httpx

from gatehouse.settings import ConfigurationError
from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.tracing.spans import Span, from_jaeger

POLL_SECONDS = 0.3
_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}")


def check_trace_id(trace_id: str) -> str:
    """Returns a trace id in its usual form.

    Raises:
        ConfigurationError: It is none.
    """
    if not _TRACE_ID.fullmatch(trace_id):
        raise ConfigurationError(
            f"{trace_id}: is no trace id; it has up to 32 hexadecimal digits, as log lines have it"
        )
    return trace_id.lower().rjust(32, "0")


async def fetch_trace(http: httpx.AsyncClient, traces_url: str, trace_id: str) -> list[Span]:
    """Returns the spans of a trace that have arrived so far.

    Args:
        http: Client to ask with.
        traces_url: The server, such as `http://127.0.0.1:16686`.
        trace_id: 32 hexadecimal digits.

    Raises:
        DemoError: The server gives no answer, or none of this API.
    """
    url = f"{traces_url.rstrip('/')}/api/traces/{trace_id}"
    try:
        answer = await http.get(url, timeout=5.0)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        answer.raise_for_status()
        return from_jaeger(answer.json())
    except (httpx.HTTPError, ValueError) as error:
        raise DemoError(
            f"{url}: gives no trace ({type(error).__name__}); check that a server of Jaeger's query API "
            "runs there, and `traces_url` of the profile"
        ) from None


async def until_trace(
    http: httpx.AsyncClient,
    traces_url: str,
    trace_id: str,
    *,
    seconds: float,
    whole: Callable[[Sequence[Span]], bool] = bool,
) -> list[Span]:
    """Returns the spans of a trace once no more come.

    Processes send their spans in batches, so that a trace arrives piece by piece.

    Args:
        http: Client to ask with.
        traces_url: The server.
        trace_id: 32 hexadecimal digits.
        seconds: How long to wait.
        whole: Whether what there is may be all.

    Raises:
        DemoError: There is no such trace, or no such server.
    """
    deadline = time.monotonic() + seconds
    before: list[Span] = []
    while True:
        found = await fetch_trace(http, traces_url, trace_id)
        settled = len(found) == len(before) and whole(found)
        if settled or time.monotonic() > deadline:
            break
        before = found
        await asyncio.sleep(POLL_SECONDS)
    if not found:
        raise DemoError(f"{trace_id}: {traces_url} knows no such trace; it may be too old, or not sampled")
    return found
