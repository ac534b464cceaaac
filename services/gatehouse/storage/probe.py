"""A connection that is reserved for health checks, so that they do not wait for a busy pool."""

from __future__ import annotations

import asyncio
from typing import Any

from gatehouse.storage.connecting import Connection, Connector, has_ended, shut_down
from gatehouse.storage.errors import DatabaseUnavailable, read_only_database, unanswered, unavailable_errors

# Abandoned checks end at once; a busy machine may need a while for it.
_CLOSE_SECONDS = 5.0


class Probe:
    """Runs the statements of health checks. One at a time.

    Args:
        connector: Opens the connection.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: Connection | None = None
        self._stale = False
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def run(self, statement: str, *, writable: bool = False, timeout: float) -> Any:
        """Run a statement and return its first row; replace the connection if that fails.

        Args:
            statement: The statement.
            writable: Fail if the server accepts no changes.
            timeout: Longest time in seconds.

        Raises:
            DatabaseUnavailable: It failed or took too long.
        """
        work = asyncio.create_task(self._run(statement, writable=writable))
        try:
            await asyncio.wait({work}, timeout=timeout)
        finally:
            if not work.done():
                self._abandon(work)
        if not work.done():
            raise unanswered()
        return await work

    async def _run(self, statement: str, *, writable: bool) -> Any:
        while True:
            connection, is_new = await self._connect()
            succeeded = False
            try:
                with unavailable_errors():
                    row = await _first_row(connection, statement, writable=writable)
            except DatabaseUnavailable:
                # That the server has ended a connection does not show whether it accepts another one.
                if is_new or not connection.broken or self._connection is not connection:
                    raise
            else:
                succeeded = True
                return row
            finally:
                if not succeeded and self._connection is connection:
                    self._connection = None
                if self._connection is not connection:  # abandoned, even if the answer has arrived after all
                    await connection.close()

    async def _connect(self) -> tuple[Connection, bool]:
        """Return the connection, and whether it was opened just now."""
        old = self._connection
        if old is not None:
            if not (self._stale or has_ended(old)):
                return old, False
            self._connection = None
            await old.close()
        self._stale = False
        self._connection = opened = await self._connector.open()
        return opened, True

    def renew(self) -> None:
        """Open another connection for the next check."""
        self._stale = True

    def _abandon(self, work: asyncio.Task[Any]) -> None:
        """End a check without waiting for it.

        psycopg waits up to 10 seconds for a server that does not respond when a statement is cancelled. If
        the connection is shut down instead, the statement fails at once.
        """
        if self._connection is None:
            work.cancel()
        else:
            shut_down(self._connection)
            self._connection = None
        self._abandoned.add(work)
        work.add_done_callback(self._end)

    def _end(self, work: asyncio.Task[Any]) -> None:
        self._abandoned.discard(work)
        if not work.cancelled():
            work.exception()  # nobody waits for it

    async def aclose(self) -> None:
        """Close the connection, and give abandoned checks a moment to close theirs."""
        if self._abandoned:
            await asyncio.wait(set(self._abandoned), timeout=_CLOSE_SECONDS)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def _first_row(connection: Connection, statement: str, *, writable: bool) -> Any:
    cursor = await connection.execute(statement.encode())
    row = await cursor.fetchone() if cursor.description else None
    if writable:
        cursor = await connection.execute("SELECT current_setting('transaction_read_only') = 'on'")
        if await cursor.fetchone() == (True,):
            raise read_only_database()
    return row
