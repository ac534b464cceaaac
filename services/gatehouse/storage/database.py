"""Connections to PostgreSQL: reads on AUTOCOMMIT connections, each write in one transaction."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import psycopg.errors
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

from gatehouse.domain import Unavailable

# The timeout of a connection is set only when it changes, so deadlines are rounded up to one of these.
_TIMEOUT_STEPS_MS = (250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
_MAX_TIMEOUT_MS = _TIMEOUT_STEPS_MS[-1]
_PING_TIMEOUT_MS = 1_000
_SET_TIMEOUT = "SET statement_timeout = "

# Detect a server that disappears without closing its connections.
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_NOT_MIGRATED = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
)


def _timeout_ms(deadline_seconds: float | None) -> int:
    if deadline_seconds is None:
        return _MAX_TIMEOUT_MS
    wanted = deadline_seconds * 1000
    return next((step for step in _TIMEOUT_STEPS_MS if step >= wanted), _MAX_TIMEOUT_MS)


class Database:
    """A pool of connections of one login role.

    Args:
        url: `postgresql://role:password@host:port/database`, or a URL of a Unix socket.
        pool_size: Maximum number of connections.
        connect_timeout: Seconds to wait for a connection, new or from the pool.
        tracer: Creates a span for each statement; None creates none.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, connect_timeout: float = 2.0, tracer: Tracer | None = None
    ) -> None:
        self.url = url
        self.tracer = tracer or NoOpTracer()
        self._engine = _engine(url, pool_size, connect_timeout)
        self._generation = 0
        self._renew_on_checkout(self._engine.sync_engine)
        # A health check does not wait for a busy pool, which is not an unavailable database.
        self._ping_engine = _engine(url, 1, connect_timeout, _PING_TIMEOUT_MS)
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
        with _unavailable_errors():
            async with self._engine.connect() as connection:
                await _set_timeout(connection, deadline_seconds)
                yield connection

    @asynccontextmanager
    async def write(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Open a connection in a transaction, which is committed, or rolled back on an exception.

        Raises:
            Unavailable: See `read`.
        """
        async with self.read(deadline_seconds) as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def snapshot(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Open a read-only connection on which all statements see the same snapshot.

        Raises:
            Unavailable: See `read`.
        """
        async with self.read(deadline_seconds) as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @asynccontextmanager
    async def driver(
        self, deadline_seconds: float | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Open a connection and return its psycopg connection; see DirectSelect.

        Raises:
            Unavailable: See `read`.
        """
        async with self.read(deadline_seconds) as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, psycopg.AsyncConnection)  # noqa: S101 - the only driver here
            try:
                yield driver
            finally:
                if driver.closed:
                    await connection.invalidate()  # SQLAlchemy has not seen the error

    async def ping(self, statement: str = "SELECT 1") -> None:
        """Run a statement on a connection that is reserved for health checks.

        Raises:
            Unavailable: It failed.
        """
        with _unavailable_errors():
            async with self._ping_engine.connect() as connection:
                await connection.exec_driver_sql(statement)

    def renew(self) -> None:
        """Replace all connections before their next use: after an outage they may be dead."""
        self._generation += 1

    def pool_in_use(self) -> int:
        """Return the number of connections in use."""
        pool: Any = self._engine.pool
        return int(pool.checkedout())

    def _renew_on_checkout(self, engine: sa.Engine) -> None:
        def on_connect(_: object, record: Any) -> None:
            record.info["generation"] = self._generation

        def on_checkout(_: object, record: Any, __: object) -> None:
            if record.info["generation"] != self._generation:
                raise sa.exc.DisconnectionError  # the pool opens another connection

        sa.event.listen(engine, "connect", on_connect)
        sa.event.listen(engine, "checkout", on_checkout)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()
        await self._ping_engine.dispose()


def _engine(
    url: str, pool_size: int, connect_timeout: float, statement_timeout_ms: int = _MAX_TIMEOUT_MS
) -> AsyncEngine:
    engine = create_async_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=connect_timeout,
        pool_use_lifo=True,
        hide_parameters=True,
        # For all connections, so that a read does not have to set and reset it.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        connect_args={
            "connect_timeout": max(1, round(connect_timeout)),
            "options": f"-c statement_timeout={statement_timeout_ms}"
            " -c idle_in_transaction_session_timeout=60000",
            "application_name": "gatehouse",
            **_KEEPALIVE,
        },
    )
    sa.event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    return engine


def _replace_if_closed(_connection: object, record: Any, _proxy: object) -> None:
    """Make the pool open a new connection if the server closed this one while it was idle.

    An idle connection receives only the message that it was closed, or a notice that can be ignored. So it is
    enough to check whether its socket is readable, which takes 1 microsecond of CPU; `pool_pre_ping` sends
    a statement at each checkout and takes 110.
    """
    if not record.info.get("used"):
        record.info["used"] = True  # just opened: SQLAlchemy gives up if the replacement is refused as well
        return
    driver: psycopg.AsyncConnection[Any] = record.driver_connection
    if driver.closed or _readable(driver.fileno()):
        raise sa.exc.DisconnectionError


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def _set_timeout(connection: AsyncConnection, deadline_seconds: float | None) -> None:
    """Set the statement timeout of the session if it differs. `connection` is in AUTOCOMMIT."""
    wanted = _timeout_ms(deadline_seconds)
    info = (await connection.get_raw_connection()).info
    if info.get("statement_timeout", _MAX_TIMEOUT_MS) != wanted:
        info["statement_timeout"] = None  # unknown, should this fail
        # Through SQLAlchemy, which drops the connection if this finds it dead.
        await connection.exec_driver_sql(f"{_SET_TIMEOUT}{wanted}")
        await connection.rollback()  # ends SQLAlchemy's transaction; in AUTOCOMMIT nothing is sent
        info["statement_timeout"] = wanted


@contextmanager
def _unavailable_errors() -> Iterator[None]:
    """Raise Unavailable for errors that mean that the database cannot be used at present."""
    try:
        yield
    except sa.exc.TimeoutError:
        raise Unavailable("DATABASE_BUSY", "the database is busy; retry later") from None
    except (sa.exc.DBAPIError, psycopg.Error) as error:
        unavailable = _unavailable(error)
        if unavailable is None:
            raise
        raise unavailable from None


def _unavailable(error: Exception) -> Unavailable | None:
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(original, psycopg.errors.QueryCanceled):
        return Unavailable("STATEMENT_TIMEOUT", "the database took too long; retry later")
    if isinstance(original, _NOT_MIGRATED):
        return Unavailable("DATABASE_NOT_MIGRATED", "the database is not migrated to the required version")
    invalidated = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
    if invalidated or isinstance(original, psycopg.OperationalError):
        return Unavailable("DATABASE_UNAVAILABLE", "the database is unavailable; retry later")
    return None


def start_statement_span(tracer: Tracer, statement: str) -> Span:
    """Start the client span of a statement, whose text has placeholders and no values.

    Only within a sampled call: spans of background work would crowd out the others.
    """
    if statement.startswith(_SET_TIMEOUT) or not get_current_span().is_recording():
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
