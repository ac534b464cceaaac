"""Fetch a trace over Jaeger's query API, from Jaeger or from the receiver of the test bed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx

from gatehouse.client.traces.jaeger import Jaeger, parse_trace_id
from gatehouse.client.traces.spans import Span
from gatehouse.client.upstream import Upstream, UpstreamError
from gatehouse.settings import ConfigurationError
from gatehouse_testbed.errors import TestbedError

POLL_SECONDS = 0.3
WAIT_SECONDS = 5.0


async def fetch_trace(http: httpx.AsyncClient, traces_url: str, trace_id: str) -> list[Span]:
    """Return the spans of a trace that have arrived so far.

    Args:
        http: HTTP client.
        traces_url: URL of the server, such as `http://127.0.0.1:16686`.
        trace_id: Hexadecimal digits.

    Raises:
        TestbedError: The server does not respond, or not as Jaeger does.
    """
    try:
        return await Jaeger(Upstream(http, traces_url, "`traces_url` in the profile")).trace(trace_id)
    except UpstreamError as error:
        raise TestbedError(str(error)) from None


async def wait_for_trace(
    http: httpx.AsyncClient,
    traces_url: str,
    trace_id: str,
    *,
    seconds: float,
    complete: Callable[[Sequence[Span]], bool] = bool,
) -> list[Span]:
    """Return the spans of a trace once no more arrive.

    Processes export spans in batches, so the parts of a trace arrive one after the other.

    Args:
        http: HTTP client.
        traces_url: URL of the server.
        trace_id: Hexadecimal digits.
        seconds: How long to wait. After that, what has arrived is returned.
        complete: Whether the spans can be the whole trace.

    Raises:
        TestbedError: There is no such trace, or no such server.
    """
    deadline = time.monotonic() + seconds
    before: list[Span] = []
    while True:
        found = await fetch_trace(http, traces_url, trace_id)
        unchanged = len(found) == len(before)
        if (unchanged and complete(found)) or time.monotonic() > deadline:
            break
        before = found
        await asyncio.sleep(POLL_SECONDS)
    if not found:
        raise TestbedError(f"{trace_id}: not found at {traces_url}; it may be too old, or not sampled")
    return found


async def find_trace(trace_id: str, traces_url: str | None) -> list[Span]:
    """Return the spans of a trace for the command line; see wait_for_trace.

    Raises:
        ConfigurationError: The trace id is invalid, or no server is configured.
        TestbedError: There is no such trace, or no such server.
    """
    parsed = parse_trace_id(trace_id)
    if traces_url is None:
        raise ConfigurationError(
            "no trace server is configured; use --url http://127.0.0.1:16686, or set `traces_url` in the "
            "profile (GATEHOUSE_PROFILE)"
        )
    async with httpx.AsyncClient(trust_env=False) as http:
        return await wait_for_trace(http, traces_url, parsed, seconds=WAIT_SECONDS)
