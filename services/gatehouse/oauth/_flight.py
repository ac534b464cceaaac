"""Single flight: many who ask for one thing at once share one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from gatehouse.oauth.errors import IssuerUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runs at most one coroutine for each key at a time; a waiter that goes away disturbs no other."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def busy(self, key: K) -> bool:
        """Whether a flight for `key` is under way."""
        return key in self._tasks

    def begin(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """Returns the flight for `key`, and starts one with `make` when there is none."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(make())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def run(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Returns the answer of the flight for `key`, or raises what it raised.

        Raises:
            IssuerUnavailable: `closing`, when the flight was ended from here.
        """
        task = self.begin(key, make)
        # Waiting, unlike awaiting, cancels nothing but the one who waits.
        await asyncio.wait((task,))
        if task.cancelled():
            raise IssuerUnavailable("closing")
        return task.result()

    def _landed(self, key: K, task: asyncio.Task[V]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # seen, also when every waiter has gone

    async def aclose(self) -> None:
        """Ends what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
