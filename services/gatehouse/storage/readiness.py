"""Whether the database answers, asked again and again, so that nobody who wants to know must wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gatehouse.domain import DomainError
from gatehouse.storage.database import Database

_ANSWER_SECONDS = 2.0


class Readiness:
    """Follows a database.

    Args:
        database: The database.
        statement: What it must be able to answer; a table that is needed shows that it is migrated.
        on_change: Told of each change, with the reason when the database is not ready.
        interval: Seconds between two questions.
    """

    def __init__(
        self,
        database: Database,
        statement: str = "SELECT 1",
        *,
        on_change: Callable[[bool, str], None] = lambda _ready, _reason: None,
        interval: float = 0.5,
    ) -> None:
        self._database = database
        self._statement = statement
        self._on_change = on_change
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self._reason = ""
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
        reason = ""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._database.ping(self._statement)
        except TimeoutError:
            reason = "DATABASE_TIMEOUT"
        except DomainError as error:
            reason = error.reason
        if not reason and self._reason:
            self._database.renew()
        if reason != self._reason:
            self._on_change(not reason, reason)
        self._reason, self.ready = reason, not reason

    async def _ask_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._ask()
