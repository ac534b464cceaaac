"""A job that runs at a fixed interval."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gatehouse.domain import DomainError


class Periodic:
    """Run a job at a fixed interval in the background.

    Args:
        job: The job. A DomainError, such as an unavailable database, ends one run; the next run tries again.
        seconds: Time between two runs.
    """

    def __init__(self, job: Callable[[], Awaitable[object]], seconds: float) -> None:
        self._job = job
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start; the first run is after one interval."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Cancel the current run and all further ones."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._job()
            except DomainError:
                continue
