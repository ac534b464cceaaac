"""LISTEN on a connection of its own. A notification only wakes readers early: what counts is in the table."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import sql


class Notifications:
    """Wakes those who wait for a channel of PostgreSQL.

    Args:
        url: Of the login role that listens.
        channel: Name of the channel.
        retry: Seconds before a lost connection is opened again.
    """

    def __init__(self, url: str, channel: str, retry: float = 1.0) -> None:
        self._url = url
        self._channel = channel
        self._retry = retry
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to listen."""
        self._task = asyncio.create_task(self._listen_forever())

    async def aclose(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self, seconds: float) -> None:
        """Returns at the next notification, or after `seconds`."""
        event = self._event
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    def wake(self) -> None:
        """Wakes all who wait."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def _listen_forever(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    self.wake()  # something may have happened before
                    async for _ in connection.notifies():
                        self.wake()
            except psycopg.Error:
                await asyncio.sleep(self._retry)
