"""One service's way to PostgreSQL: reads on AUTOCOMMIT connections, writes in one transaction each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

# A time-out is set on a connection only when it changes, so deadlines are rounded up to one of these.
_TIMEOUT_STEPS_MS = (250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
_MAX_TIMEOUT_MS = _TIMEOUT_STEPS_MS[-1]


# A peer that is gone without a word is noticed, so that nobody waits for it for ever.
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
        url: `postgresql://role:password@host:port/database`, or over a Unix socket.
        pool_size: Greatest number of connections.
        connect_timeout: Seconds to wait for a connection, new or out of the pool.
        tracer: Makes a span for each statement; None makes none.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, connect_timeout: float = 2.0, tracer: Tracer | None = None
    ) -> None:
        self.url = url
        self._engine = _engine(url, pool_size, connect_timeout)
        self._generation = 0
        self._renew_on_checkout(self._engine.sync_engine)
        # A sign of life must not wait behind the work: a busy pool is no dead database.
        self._pulse = _engine(url, 1, connect_timeout)
        self._writes = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._snapshots = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self.tracer = tracer or NoOpTracer()
        if tracer is not None:
            _trace(self._engine.sync_engine, tracer)

    @asynccontextmanager
    async def driver(
        self, deadline_seconds: float | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Give the psycopg connection below a connection of the pool; see DirectSelect.

        Raises:
            Unavailable: See `read`.
        """
        with _as_unavailable():
            raw = await self._engine.raw_connection()
            try:
                yield await _set_timeout(raw, deadline_seconds)
            finally:
                if raw.driver_connection is None or raw.driver_connection.closed:
                    raw.invalidate()
                raw.close()  # does not wait: with AUTOCOMMIT there is nothing to roll back

    @asynccontextmanager
    async def read(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Gives a connection on which each statement stands alone.

        Raises:
            Unavailable: The database cannot be reached, or a statement took too long.
        """
        with _as_unavailable():
            async with self._engine.connect() as connection:
                await _set_timeout(await connection.get_raw_connection(), deadline_seconds)
                yield connection

    @asynccontextmanager
    async def write(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Gives a connection in a transaction, which ends well or not at all.

        Raises:
            Unavailable: As in `read`.
        """
        with _as_unavailable():
            async with self._writes.connect() as connection, connection.begin():
                await _set_timeout(await connection.get_raw_connection(), deadline_seconds)
                yield connection

    @asynccontextmanager
    async def snapshot(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Gives a read-only connection on which all statements see one moment.

        Raises:
            Unavailable: As in `read`.
        """
        with _as_unavailable():
            async with self._snapshots.connect() as connection:
                await _set_timeout(await connection.get_raw_connection(), deadline_seconds)
                yield connection

    async def ping(self, statement: str = "SELECT 1") -> None:
        """Asks the database for a sign of life, on a connection kept for that.

        Args:
            statement: What it must be able to answer.

        Raises:
            Unavailable: There is none.
        """
        with _as_unavailable():
            async with self._pulse.connect() as connection:
                await _set_timeout(await connection.get_raw_connection(), 1.0)
                await connection.exec_driver_sql(statement)

    def renew(self) -> None:
        """Has no older connection used again: after an outage they are dead, and would cost a call each."""
        self._generation += 1

    def pool_in_use(self) -> int:
        """Number of connections that are in use now."""
        pool: Any = self._engine.pool
        return int(pool.checkedout())

    def _renew_on_checkout(self, engine: sa.Engine) -> None:
        def made(_: object, record: Any) -> None:
            record.info["generation"] = self._generation

        def taken(_: object, record: Any, __: object) -> None:
            if record.info["generation"] != self._generation:
                raise sa.exc.DisconnectionError  # the pool makes another one

        sa.event.listen(engine, "connect", made)
        sa.event.listen(engine, "checkout", taken)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()
        await self._pulse.dispose()


def _engine(url: str, pool_size: int, connect_timeout: float) -> AsyncEngine:
    return create_async_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=connect_timeout,
        pool_use_lifo=True,
        hide_parameters=True,
        # Of every connection, so that a read need not set it and set it back.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        connect_args={
            "connect_timeout": max(1, round(connect_timeout)),
            "options": f"-c statement_timeout={_MAX_TIMEOUT_MS} -c idle_in_transaction_session_timeout=60000",
            "application_name": "gatehouse",
            **_KEEPALIVE,
        },
    )


async def _set_timeout(
    raw: sa.PoolProxiedConnection, deadline_seconds: float | None
) -> psycopg.AsyncConnection[Any]:
    """Sets the time-out of statements where it is another, and returns the connection of psycopg."""
    wanted = _timeout_ms(deadline_seconds)
    driver = raw.driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)  # noqa: S101 - the only driver here
    if raw.info.get("statement_timeout", _MAX_TIMEOUT_MS) != wanted:
        raw.info["statement_timeout"] = None  # not known, should this fail
        # Outside a transaction, or its rollback would take it back.
        autocommit = driver.autocommit
        await driver.set_autocommit(True)
        await driver.execute(f"SET statement_timeout = {wanted}")
        await driver.set_autocommit(autocommit)
        raw.info["statement_timeout"] = wanted
    return driver


class _as_unavailable:  # noqa: N801 - read as a phrase
    """Turns what a database does when it is away into Unavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.TimeoutError):
            raise Unavailable("DATABASE_BUSY", "the database is busy, try again") from None
        original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(original, psycopg.errors.QueryCanceled):
            raise Unavailable("STATEMENT_TIMEOUT", "the database took too long, try again") from None
        if isinstance(original, _NOT_MIGRATED):
            raise Unavailable(
                "DATABASE_NOT_MIGRATED", "the database is not at the version that this service needs"
            ) from None
        if isinstance(original, psycopg.OperationalError) or (
            isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
        ):
            raise Unavailable("DATABASE_UNAVAILABLE", "the database is away, try again") from None


def start_statement_span(tracer: Tracer, statement: str) -> Span:
    """Start the client span of a statement, whose text has placeholders and no values.

    Only within a sampled call: spans of background work would bury the others.
    """
    if not get_current_span().is_recording():
        return INVALID_SPAN
    return tracer.start_span(
        statement.split(None, 1)[0].upper(),
        kind=SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "db.query.text": statement[:2000]},
    )


def mark_failed(span: Span, error: BaseException) -> None:
    """Mark the span of a statement as failed, by the type of its error."""
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
