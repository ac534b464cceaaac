"""Waiting for the first of several events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wait_any(*waits: Coroutine[Any, Any, object], timeout: float | None = None) -> None:
    """Return when the first of `waits` ends, or after `timeout` seconds; cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
