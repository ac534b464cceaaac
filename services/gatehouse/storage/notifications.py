"""LISTEN on a separate connection. A notification only wakes readers early; the data is in a table.

Behind a pooler in transaction mode there are no notifications, and readers only poll.
"""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import sql

from gatehouse.storage.connecting import Connector
from gatehouse.storage.errors import DatabaseUnavailable


class Notifications:
    """Wakes one task that waits for notifications of PostgreSQL.

    Args:
        connector: Opens the connection.
        channel: Channel to listen on.
        retry: Seconds before reconnecting after an error.
    """

    def __init__(self, connector: Connector, channel: str, retry: float = 1.0) -> None:
        self._connector = connector
        self._channel = channel
        self._retry = retry
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start listening."""
        self._task = asyncio.create_task(self._listen_forever())

    async def aclose(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for a notification that came after the last call of `wait`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()

    def wake(self) -> None:
        """Wake the waiting task as a notification does."""
        self._event.set()

    async def _listen_forever(self) -> None:
        while True:
            try:
                async with await self._connector.open() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    self.wake()  # there may have been notifications before the connection was open
                    async for _ in connection.notifies():
                        self.wake()
            except (psycopg.Error, DatabaseUnavailable):
                await asyncio.sleep(self._retry)
