"""Readiness of a database, checked in the background so that a health check never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gatehouse.storage.database import Database
from gatehouse.storage.errors import DatabaseUnavailable, failed_check


class Readiness:
    """Checks periodically whether a database is ready.

    Args:
        database: The database.
        statement: SQL statement that must succeed. One that reads a table also shows that it is migrated.
        writable: Whether a server that accepts no changes is not ready.
        on_change: Called on each change with the reason and what PostgreSQL reported; "" and "" if ready.
        interval: Seconds between two checks.
    """

    def __init__(
        self,
        database: Database,
        statement: str = "SELECT 1",
        *,
        writable: bool = False,
        on_change: Callable[[str, str], None] = lambda _reason, _detail: None,
        interval: float = 0.5,
    ) -> None:
        self._database = database
        self._statement = statement
        self._writable = writable
        self._on_change = on_change
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.reason = self._detail = ""
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
        reason = detail = ""
        try:
            await self._database.ping(self._statement, writable=self._writable)
        except DatabaseUnavailable as error:
            reason, detail = error.reason, error.detail
        except Exception as error:  # noqa: BLE001 - no error may end the checks
            failed = failed_check(error)
            reason, detail = failed.reason, failed.detail
        if self.reason and not reason:
            self._database.renew()  # connections from before the outage may be dead, or of the old server
        if (reason, detail) != (self.reason, self._detail):
            self._on_change(reason, detail)
        self.reason, self._detail, self.ready = reason, detail, not reason

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._check()
