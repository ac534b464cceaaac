"""Open connections to PostgreSQL, for the pool, health checks, notifications and migrations."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import psycopg
import psycopg.errors

from gatehouse.settings import database_parameters
from gatehouse.storage.errors import former_primary, refused_connection

MAX_TIMEOUT_MS = 30_000
_IDLE_IN_TRANSACTION_MS = 60_000
# A parameter in the URL overrides these. The keepalives detect a server that disappears without closing its
# connections.
_DEFAULTS = {
    "fallback_application_name": "gatehouse",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
# A start-up parameter `options` would be shorter, but poolers such as PgBouncer refuse it.
_INSPECT = """
    SELECT pg_backend_pid(),
      (1000 * extract(epoch FROM current_setting('statement_timeout')::interval))::bigint,
      current_setting('idle_in_transaction_session_timeout') = '0'
"""
# Returns no row on a standby.
_TIMELINE = """
    SELECT system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
    FROM pg_control_system() WHERE NOT pg_is_in_recovery()
"""
# Errors of managed databases, and of those that are only compatible with PostgreSQL.
_NOT_PROVIDED = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
)


def connection_parameters(url: str, connect_timeout: float) -> dict[str, Any]:
    """Return the parameters for psycopg; those in the URL have precedence over our defaults."""
    timeout = str(max(1, round(connect_timeout)))
    return {**_DEFAULTS, "connect_timeout": timeout, **database_parameters(url)}


class Connection(psycopg.AsyncConnection[Any]):
    """A connection in AUTOCOMMIT.

    Attributes:
        pooled: Whether a pooler such as PgBouncer is between us and PostgreSQL. Settings of the session and
            prepared statements then belong to somebody else's connection as well.
        max_timeout_ms: Longest statement timeout: the one that the operator has set, or 30 seconds.
        timeout_ms: Statement timeout of the session; None if it is not known.
    """

    pooled = False
    max_timeout_ms = MAX_TIMEOUT_MS
    timeout_ms: int | None = None

    async def inspect(self) -> None:
        """Recognize a pooler, and set the timeouts of the session."""
        row = await (await self.execute(_INSPECT)).fetchone()
        assert row is not None  # noqa: S101 - a SELECT without FROM
        pid, timeout_ms, idle_without_limit = row
        # A pooler invents the process id that it reports when a client connects.
        self.pooled = pid != self.info.backend_pid
        self.max_timeout_ms = min(timeout_ms or MAX_TIMEOUT_MS, MAX_TIMEOUT_MS)
        if self.pooled:
            self.prepare_threshold = None
            return
        statements = [f"SET statement_timeout = {self.max_timeout_ms}"]
        if idle_without_limit:
            statements.append(f"SET idle_in_transaction_session_timeout = {_IDLE_IN_TRANSACTION_MS}")
        await self.execute("; ".join(statements).encode())
        self.timeout_ms = self.max_timeout_ms


class Connector:
    """Opens connections of one login role.

    Args:
        url: Database URL, or a function that returns the present one: the password may change.
        connect_timeout: Seconds to wait for a connection, unless the URL has its own limit.
    """

    def __init__(self, url: str | Callable[[], str], connect_timeout: float = 2.0) -> None:
        self._url = url if callable(url) else lambda: url
        self._connect_timeout = connect_timeout
        # The database system, its newest timeline, and the connections to it.
        self._newest = (0, "")
        self._opened: WeakSet[Connection] = WeakSet()

    async def open(self) -> Connection:
        """Open a connection.

        Raises:
            DatabaseUnavailable: It could not be opened.
        """
        parameters = connection_parameters(self._url(), self._connect_timeout)
        try:
            connection = await self._connect(parameters)
            try:
                await self._prepare(connection)
                if "," in parameters.get("host", ""):
                    await self._check_timeline(connection)
            except BaseException:
                await connection.close()
                raise
        except (psycopg.Error, OSError, ValueError) as error:
            raise refused_connection(error, parameters.get("password", "")) from None
        return connection

    async def _connect(self, parameters: dict[str, Any]) -> Connection:
        return await Connection.connect(**parameters, autocommit=True)

    async def _prepare(self, connection: Connection) -> None:
        await connection.inspect()

    async def _check_timeline(self, connection: Connection) -> None:
        """Refuse a former primary; after a failover, end the connections to it.

        A primary that was suspended continues until it learns of the failover. Its data is old, and what it
        commits is lost.

        Raises:
            DatabaseUnavailable: The server is a former primary.
        """
        try:
            row = await (await connection.execute(_TIMELINE)).fetchone()
        except _NOT_PROVIDED:
            return
        if row is None:
            return
        system, newest = self._newest
        if row[0] == system and row[1] < newest:
            raise former_primary()
        if row[0] == system and row[1] > newest:
            for former in self._opened:
                shut_down(former)
        if row != self._newest:
            self._newest, self._opened = row, WeakSet()
        self._opened.add(connection)


def has_ended(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server has closed an idle connection.

    An idle connection receives only the message that it was closed, or a notice that can be ignored. So it is
    enough to check whether its socket is readable, which takes 1 microsecond of CPU; `pool_pre_ping` sends
    a statement at each checkout and takes 110.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def shut_down(connection: psycopg.AsyncConnection[Any]) -> None:
    """End a connection without a word to the server, so that its pending statement fails here at once."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
