"""Single flight: concurrent requests for the same thing share one result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from gatehouse.oauth.errors import IssuerUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


async def wait_at_most(
    seconds: float, sleep: Callable[[float], Awaitable[None]], task: asyncio.Task[Any]
) -> None:
    """Wait until `task` ends, but not longer than `seconds`; it is not cancelled then."""
    limit = asyncio.ensure_future(sleep(seconds))
    await asyncio.wait((task, limit), return_when=asyncio.FIRST_COMPLETED)
    limit.cancel()


class SingleFlight(Generic[K, V]):
    """Run at most one coroutine per key at a time. A cancelled waiter does not affect the others."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def busy(self, key: K) -> bool:
        """Return whether a coroutine for `key` is running."""
        return key in self._tasks

    def begin(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """Return the running task for `key`; start `make` if there is none."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(make())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._on_done(key, done))
        return task

    async def run(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Return the result of the task for `key`, or raise its exception.

        Raises:
            IssuerUnavailable: `closing`, if `aclose` cancelled the task.
        """
        task = self.begin(key, make)
        # If this waiter is cancelled, `wait` does not cancel the task, as awaiting it would.
        await asyncio.wait((task,))
        if task.cancelled():
            raise IssuerUnavailable("closing")
        return task.result()

    def _on_done(self, key: K, task: asyncio.Task[V]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # retrieved, in case no waiter is left

    async def aclose(self) -> None:
        """Cancel all running tasks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
