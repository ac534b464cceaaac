"""Wait in a test until a condition holds."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], seconds: float = ..., interval: float = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T], seconds: float = ..., interval: float = ...) -> T: ...
async def eventually(condition: Callable[[], Any], seconds: float = 60.0, interval: float = 0.005) -> Any:
    """Return the first true result of `condition`, a function or a coroutine function.

    Raises:
        AssertionError: No result was true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"not true within {seconds:g} s; last result: {result!r}"
        await asyncio.sleep(interval)
