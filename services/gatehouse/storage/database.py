"""Connections to PostgreSQL: reads on AUTOCOMMIT connections, each write in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from opentelemetry.trace import (
    INVALID_SPAN,
    NoOpTracer,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gatehouse.storage.connecting import MAX_TIMEOUT_MS, Connection, Connector, has_ended, shut_down
from gatehouse.storage.errors import DatabaseUnavailable, makes_connection_useless, unavailable_errors
from gatehouse.storage.probe import Probe

# The timeout of a connection is set only when it changes, so deadlines are rounded up to one of these.
_TIMEOUT_STEPS_MS = (250, 500, 1_000, 2_500, 5_000, 10_000, MAX_TIMEOUT_MS)
# Together with the interval of Readiness this is less than three seconds.
_PING_SECONDS = 1.5
# How long a commit continues after its call was cancelled.
_COMMIT_SECONDS = 2.0
_SET_TIMEOUT = ("SET statement_timeout = ", "SET LOCAL statement_timeout = ")
_SET_READ_ONLY = "SET TRANSACTION READ ONLY"
# The timeline, and the transaction id below which a standby must have completed all: text that sorts.
POSITION = """
    SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || lpad(to_hex(greatest(
        pg_current_xact_id_if_assigned()::text::bigint + 1,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint)), 16, '0')
"""
_WITHOUT_SPAN = (*_SET_TIMEOUT, _SET_READ_ONLY, POSITION)


def _timeout_ms(deadline_seconds: float | None) -> int:
    if deadline_seconds is None:
        return MAX_TIMEOUT_MS
    wanted = deadline_seconds * 1000
    return next((step for step in _TIMEOUT_STEPS_MS if step >= wanted), MAX_TIMEOUT_MS)


class Database:
    """A pool of connections of one login role.

    Args:
        url: `postgresql://role:password@host:port/database`, see `gatehouse.settings.database_parameters`; or
            a function that returns the present one; or what opens connections.
        pool_size: Maximum number of connections.
        connect_timeout: Seconds to wait for a connection, new or from the pool.
        max_use: Seconds after which a connection that is still in use is shut down; None for no limit.
        on_write: Called before each commit with the position that a standby must reach to have it; see
            gatehouse.storage.standbys.
        tracer: Creates a span for each statement; None creates none.
    """

    def __init__(
        self,
        url: str | Callable[[], str] | Connector,
        *,
        pool_size: int = 10,
        connect_timeout: float = 2.0,
        max_use: float | None = None,
        on_write: Callable[[str], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.connector = url if isinstance(url, Connector) else Connector(url, connect_timeout)
        self._max_use = max_use
        self._on_write = on_write
        self.tracer = tracer or NoOpTracer()
        self._probe = Probe(self.connector)
        self._generation = 0
        self._engine = self._make_engine(pool_size, connect_timeout)
        if tracer is not None:
            _trace(self._engine.sync_engine, tracer)

    @asynccontextmanager
    async def read(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Open a connection on which each statement is its own transaction.

        Args:
            deadline_seconds: Seconds until the caller's deadline, for the statement timeout; None for the
                default.

        Raises:
            Unavailable: The database is unavailable or busy, or a statement timed out.
        """
        async with self._connect(deadline_seconds) as connection:
            yield connection

    @asynccontextmanager
    async def write(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Open a connection in a transaction, which is committed, or rolled back on an exception.

        Raises:
            Unavailable: See `read`.
        """
        async with self._connect(deadline_seconds, isolation_level="READ COMMITTED") as connection:
            yield connection
            if self._on_write is not None:
                # Before the commit: a failure after it would report a write as failed that was made.
                self._on_write((await connection.exec_driver_sql(POSITION)).scalar_one())
            await _commit(connection)

    @asynccontextmanager
    async def snapshot(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Open a read-only connection on which all statements see the same snapshot.

        Raises:
            Unavailable: See `read`.
        """
        async with self._connect(
            deadline_seconds, isolation_level="REPEATABLE READ", read_only=True
        ) as connection:
            # The option postgresql_readonly would leave the connection read-write for good, also on a server
            # whose default_transaction_read_only is on.
            await connection.exec_driver_sql(_SET_READ_ONLY)
            yield connection

    @asynccontextmanager
    async def driver(
        self, deadline_seconds: float | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Open a connection and return its psycopg connection; see DirectSelect.

        Raises:
            Unavailable: See `read`.
        """
        with unavailable_errors():
            raw = await self._engine.raw_connection()
            driver = _checked(raw.driver_connection)
            try:
                wanted = min(_timeout_ms(deadline_seconds), driver.max_timeout_ms)
                with self._limit_use(driver):
                    if driver.pooled:
                        await driver.execute(f"BEGIN; {_SET_TIMEOUT[1]}{wanted}".encode())
                    elif driver.timeout_ms != wanted:
                        driver.timeout_ms = None  # unknown, should this fail
                        await driver.execute(f"{_SET_TIMEOUT[0]}{wanted}".encode())
                        driver.timeout_ms = wanted
                    try:
                        yield driver
                    finally:
                        if driver.pooled and not driver.closed:
                            await driver.execute("COMMIT")
            except psycopg.Error as error:
                if makes_connection_useless(error):
                    await driver.close()
                raise
            finally:
                if driver.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    await driver.close()  # the call was cancelled within a transaction or a statement
                # In AUTOCOMMIT nothing is sent. The pool replaces a closed connection at its next use.
                raw.close()

    @contextmanager
    def _limit_use(self, driver: Connection) -> Iterator[None]:
        """Shut the connection down if it is in use for longer than allowed."""
        if self._max_use is None:
            yield
            return
        limit = asyncio.get_running_loop().call_later(self._max_use, shut_down, driver)
        try:
            yield
        finally:
            limit.cancel()

    @asynccontextmanager
    async def _connect(
        self, deadline_seconds: float | None, *, isolation_level: str = "", read_only: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """Take a connection from the pool.

        Behind a pooler even a read is one transaction, because it has no session whose timeout could be set.
        """
        with unavailable_errors(read_only=read_only):
            async with self._engine.connect() as connection:
                try:
                    driver = await _driver(connection)
                    wanted = min(_timeout_ms(deadline_seconds), driver.max_timeout_ms)
                    with self._limit_use(driver):
                        if driver.timeout_ms != wanted and not driver.pooled:
                            await _set_session_timeout(connection, driver, wanted)
                        if isolation_level or driver.pooled:
                            level = isolation_level or "READ COMMITTED"
                            await connection.execution_options(isolation_level=level)
                        if driver.pooled:
                            await connection.exec_driver_sql(f"{_SET_TIMEOUT[1]}{wanted}")
                        yield connection
                except (sa.exc.DBAPIError, psycopg.Error) as error:
                    if makes_connection_useless(error):
                        await connection.invalidate()
                    raise

    async def ping(self, statement: str = "SELECT 1", *, writable: bool = False) -> None:
        """Run a statement on a connection that is reserved for health checks.

        Args:
            statement: The statement.
            writable: Fail if the server accepts no changes.

        Raises:
            DatabaseUnavailable: It failed, or took longer than 1.5 seconds.
        """
        await self._probe.run(statement, writable=writable, timeout=_PING_SECONDS)

    def renew(self) -> None:
        """Replace all connections before their next use: after an outage they may be dead."""
        self._generation += 1

    def pool_in_use(self) -> int:
        """Return the number of connections in use."""
        pool: Any = self._engine.pool
        return int(pool.checkedout())

    def _make_engine(self, pool_size: int, connect_timeout: float) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=self._open,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=connect_timeout,
            pool_use_lifo=True,
            hide_parameters=True,
            # For all connections, so that a read does not have to set and reset it.
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
        )

        def on_connect(_: object, record: Any) -> None:
            record.info["generation"] = self._generation

        def on_checkout(_: object, record: Any, __: object) -> None:
            if not record.info.get("used"):
                record.info["used"] = True  # just opened: SQLAlchemy gives up if it is refused as well
            elif record.info["generation"] != self._generation or has_ended(record.driver_connection):
                raise sa.exc.DisconnectionError  # the pool opens another connection

        sa.event.listen(engine.sync_engine, "connect", on_connect)
        sa.event.listen(engine.sync_engine, "checkout", on_checkout)
        return engine

    async def _open(self) -> Connection:
        """Open a connection for the pool."""
        try:
            return await self.connector.open()
        except DatabaseUnavailable as error:
            if error.reason != "DATABASE_BUSY":
                # The connection of the health checks may be from before the password was changed.
                self._probe.renew()
            raise

    async def aclose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()
        await self._probe.aclose()


async def _driver(connection: AsyncConnection) -> Connection:
    return _checked((await connection.get_raw_connection()).driver_connection)


def _checked(driver: object) -> Connection:
    assert isinstance(driver, Connection)  # noqa: S101 - all of them are opened by Connector
    return driver


async def _commit(connection: AsyncConnection) -> None:
    """Commit, and never cancel it at the server.

    PostgreSQL acknowledges a commit once a synchronous standby has it. If that wait is cancelled, the
    transaction stays committed on this server only: a retry would find and acknowledge what a failover loses.
    """
    driver = await _driver(connection)
    commit = asyncio.create_task(connection.commit())
    try:
        await asyncio.shield(commit)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({commit}, timeout=_COMMIT_SECONDS)
        finally:
            if not commit.done():
                shut_down(driver)  # PostgreSQL still waits
            await asyncio.gather(commit, return_exceptions=True)
        raise


async def _set_session_timeout(connection: AsyncConnection, driver: Connection, wanted: int) -> None:
    """Set the statement timeout of the session. `connection` is in AUTOCOMMIT."""
    driver.timeout_ms = None  # unknown, should this fail
    # Through SQLAlchemy, which drops the connection if this finds it dead.
    await connection.exec_driver_sql(f"{_SET_TIMEOUT[0]}{wanted}")
    await connection.rollback()  # ends SQLAlchemy's transaction; in AUTOCOMMIT nothing is sent
    driver.timeout_ms = wanted


def start_statement_span(tracer: Tracer, statement: str) -> Span:
    """Start the client span of a statement, whose text has placeholders and no values.

    Only within a sampled call: spans of background work would crowd out the others.
    """
    if statement.startswith(_WITHOUT_SPAN) or not get_current_span().is_recording():
        return INVALID_SPAN
    return tracer.start_span(
        statement.split(None, 1)[0].upper(),
        kind=SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "db.query.text": statement[:2000]},
    )


def mark_failed(span: Span, error: BaseException) -> None:
    """Mark the span of a statement as failed, with the type of the error."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))


def _trace(engine: sa.Engine, tracer: Tracer) -> None:
    """Record a client span for each statement."""

    def before(
        _connection: sa.Connection,
        _cursor: object,
        statement: str,
        _parameters: object,
        context: Any,
        _many: object,
    ) -> None:
        context.gatehouse_span = start_statement_span(tracer, statement)

    def after(
        _connection: sa.Connection,
        _cursor: object,
        _statement: str,
        _parameters: object,
        context: Any,
        _many: object,
    ) -> None:
        span = getattr(context, "gatehouse_span", None)
        if span is not None:
            span.end()

    def failed(error: sa.engine.ExceptionContext) -> None:
        span = getattr(error.execution_context, "gatehouse_span", None)
        if span is not None:
            mark_failed(span, error.original_exception)
            span.end()

    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "after_cursor_execute", after)
    sa.event.listen(engine, "handle_error", failed)
