"""Waiting for the first of several events, and for work that blocks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any


async def wait_any(*waits: Coroutine[Any, Any, object], timeout: float | None = None) -> None:
    """Return when the first of `waits` ends, or after `timeout` seconds; cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def run_in_thread(
    work: Callable[[], object], seconds: float, hurry: asyncio.Event | None = None
) -> bool:
    """Run a function that may block, without keeping the event loop or the exit of the process waiting.

    Args:
        work: The function. Its thread continues if it takes longer than `seconds`.
        seconds: Longest time to wait.
        hurry: Ends the wait early when it is set.

    Returns:
        Whether the function has returned.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, daemon=True).start()
    await wait_any(ended.wait(), *([hurry.wait()] if hurry else []), timeout=seconds)
    return ended.is_set()
