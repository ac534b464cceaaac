"""Readiness of a database, checked in the background so that a health check never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gatehouse.domain import DomainError
from gatehouse.storage.database import Database

_TIMEOUT_SECONDS = 2.0


class Readiness:
    """Checks periodically whether a database is ready.

    Args:
        database: The database.
        statement: SQL statement that must succeed. One that reads a table also shows that it is migrated.
        on_change: Called on each change with the new state and, if not ready, the reason.
        interval: Seconds between two checks.
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
        self.reason = ""
        self.ready = False

    async def start(self) -> None:
        """Check once, and start checking in the background."""
        await self._check()
        self._task = asyncio.create_task(self._check_forever())

    async def aclose(self) -> None:
        """Stop checking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _check(self) -> None:
        reason = ""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._database.ping(self._statement)
        except TimeoutError:
            reason = "DATABASE_TIMEOUT"
        except DomainError as error:
            reason = error.reason
        if not reason and self.reason:
            self._database.renew()
        if reason != self.reason:
            self._on_change(not reason, reason)
        self.reason, self.ready = reason, not reason

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._check()
