"""One service's way to PostgreSQL: reads on AUTOCOMMIT connections, writes in one transaction each."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Mapping
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
from gatehouse.storage.query import Query

# A time-out is set on a connection only when it changes, so deadlines are rounded up to one of these.
_TIMEOUT_STEPS_MS = (250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
_MAX_TIMEOUT_MS = _TIMEOUT_STEPS_MS[-1]
_PING_TIMEOUT_MS = 1_000
_SET_TIMEOUT = "SET statement_timeout = "

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
        self._pulse = _engine(url, 1, connect_timeout, _PING_TIMEOUT_MS)
        self._tracer = tracer or NoOpTracer()
        if tracer is not None:
            _trace(self._engine.sync_engine, tracer)

    async def fetch_one(
        self, query: Query, parameters: Mapping[str, object], deadline_seconds: float | None = None
    ) -> Any:
        """Runs one statement on a connection of the pool, past the layers of SQLAlchemy.

        Returns:
            The first row, None when there is none.

        Raises:
            Unavailable: As in `read`.
        """
        async with self.read(deadline_seconds) as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, psycopg.AsyncConnection)  # noqa: S101 - the only driver here
            span: Span = INVALID_SPAN
            if get_current_span().is_recording():
                span = self._tracer.start_span(
                    "SELECT", kind=SpanKind.CLIENT, attributes=query.span_attributes
                )
            try:
                row = await (await driver.execute(query.text, parameters)).fetchone()
            except Exception as error:
                _failed(span, error)
                if driver.closed:
                    await connection.invalidate()
                raise
            finally:
                span.end()
        return None if row is None else query.row(row)

    @asynccontextmanager
    async def read(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Gives a connection on which each statement stands alone.

        Raises:
            Unavailable: The database cannot be reached, or a statement took too long.
        """
        with _as_unavailable():
            async with self._engine.connect() as connection:
                await _set_timeout(connection, deadline_seconds)
                yield connection

    @asynccontextmanager
    async def write(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Gives a connection in a transaction, which ends well or not at all.

        Raises:
            Unavailable: As in `read`.
        """
        async with self.read(deadline_seconds) as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def snapshot(self, deadline_seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Gives a read-only connection on which all statements see one moment.

        Raises:
            Unavailable: As in `read`.
        """
        async with self.read(deadline_seconds) as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
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
        # Of every connection, so that a read need not set it and set it back.
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

    An idle connection receives nothing but the news that it was closed, or a notice it need not be kept for.
    So it is enough to see whether its socket is readable: 1 microsecond of CPU time, where `pool_pre_ping`
    sends a statement at each checkout and costs 110.
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


def _failed(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))


def _trace(engine: sa.Engine, tracer: Tracer) -> None:
    """Makes a client span for each statement of a call; its text holds placeholders, never values.

    A statement outside a call, such as a health probe, makes none; nor does setting the statement timeout.
    """

    def before(
        _connection: sa.Connection,
        _cursor: object,
        statement: str,
        _parameters: object,
        context: Any,
        _many: object,
    ) -> None:
        if statement.startswith(_SET_TIMEOUT) or not get_current_span().get_span_context().is_valid:
            return
        context.gatehouse_span = tracer.start_span(
            statement.split(None, 1)[0].upper(),
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "postgresql", "db.query.text": statement[:2000]},
        )

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
            _failed(span, error.original_exception)
            span.end()

    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "after_cursor_execute", after)
    sa.event.listen(engine, "handle_error", failed)
