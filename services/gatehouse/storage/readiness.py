"""Whether the database answers, asked again and again, so that nobody who wants to know must wait."""

from __future__ import annotations

import asyncio

from gatehouse.domain import DomainError
from gatehouse.storage.database import Database


class Readiness:
    """Follows a database.

    Args:
        database: The database.
        interval: Seconds between two questions.
    """

    def __init__(self, database: Database, interval: float = 0.5) -> None:
        self._database = database
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.ready = False

    async def start(self) -> None:
        """Asks once, and begins to ask again and again."""
        await self._ask()
        self._task = asyncio.create_task(self._ask_forever())

    async def aclose(self) -> None:
        """Ends the questions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._database.ping()
        except (DomainError, TimeoutError):
            self.ready = False
        else:
            self.ready = True

    async def _ask_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._ask()
