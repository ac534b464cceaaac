"""The pool of one login role: time-outs, exhaustion, outages and cancellation, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, use_span

from gatehouse.domain import Unavailable
from gatehouse.storage import Database, Readiness
from tests.support.eventually import eventually
from tests.support.telemetry import Spans

SLOW = sa.text("SELECT pg_sleep(60)")
TIMEOUT = sa.text("SHOW statement_timeout")


@pytest.fixture
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    opened = Database(database_urls["users"], pool_size=1, connect_timeout=0.2)
    yield opened
    await opened.aclose()


@contextlib.asynccontextmanager
async def refused_logins(owner: str, role: str = "gatehouse_users") -> AsyncIterator[None]:
    """Terminate the connections of the role, and let it open no new one."""
    async with await psycopg.AsyncConnection.connect(owner, autocommit=True) as connection:
        await connection.execute(f"ALTER ROLE {role} NOLOGIN")
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE usename = %s AND datname = current_database()",
                [role],
            )
            yield
        finally:
            await connection.execute(f"ALTER ROLE {role} LOGIN")


async def shown(connection: Any) -> str:
    value: str = (await connection.execute(TIMEOUT)).scalar_one()
    return value


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(None, "30s"), (0.1, "250ms"), (0.25, "250ms"), (0.3, "500ms"), (4.0, "5s"), (9.9, "10s"), (1e9, "30s")],
)
async def test_the_statement_timeout_follows_the_deadline(
    database: Database, seconds: float | None, wanted: str
) -> None:
    for way in (database.read, database.write, database.snapshot):
        async with way(seconds) as connection:
            assert await shown(connection) == wanted


async def test_a_timeout_holds_after_a_rollback(database: Database) -> None:
    """A SET within a transaction is taken back with it."""
    with contextlib.suppress(ZeroDivisionError):
        async with database.write(1.0) as connection:
            assert await shown(connection) == "1s"
            raise ZeroDivisionError
    async with database.read(1.0) as connection:
        assert await shown(connection) == "1s"
    async with database.snapshot(2.0) as connection:
        assert await shown(connection) == "2500ms"
    async with database.write(2.0) as connection:
        assert await shown(connection) == "2500ms"


async def test_a_statement_beyond_the_deadline_is_unavailable_and_its_connection_serves_on(
    database: Database,
) -> None:
    for way in (database.read, database.write, database.snapshot):
        with pytest.raises(Unavailable) as caught:
            async with way(0.1) as connection:
                await connection.execute(SLOW)
        assert caught.value.reason == "STATEMENT_TIMEOUT"
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1


async def test_reads_stand_alone_and_snapshots_see_one_moment(
    database: Database, database_urls: dict[str, str]
) -> None:
    count = sa.text("SELECT count(*) FROM users.requests")
    add = "INSERT INTO users.requests VALUES ('s', gen_random_uuid(), '', '', now())"
    other = await psycopg.AsyncConnection.connect(database_urls["users"], autocommit=True)
    async with other:
        for way, differs in ((database.snapshot, False), (database.read, True)):
            async with way() as connection:
                before = (await connection.execute(count)).scalar_one()
                await other.execute(add)
                assert ((await connection.execute(count)).scalar_one() != before) is differs


async def test_a_snapshot_cannot_write(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="read-only"):
        async with database.snapshot() as connection:
            await connection.execute(sa.text("DELETE FROM users.users"))


async def test_an_exhausted_pool_is_unavailable_and_the_sign_of_life_does_not_wait_for_it(
    database: Database,
) -> None:
    async with database.read():
        assert database.pool_in_use() == 1
        with pytest.raises(Unavailable) as caught:
            async with database.read():
                pass
        assert caught.value.reason == "DATABASE_BUSY"
        await database.ping()
    assert database.pool_in_use() == 0


async def test_a_cancelled_statement_ends_on_the_server_and_frees_its_connection(
    database: Database, database_urls: dict[str, str]
) -> None:
    async def sleep() -> None:
        async with database.read() as connection:
            await connection.execute(SLOW)

    running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    async with await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as monitor:

        async def sleepers() -> int:
            row = await (await monitor.execute(running)).fetchone()
            assert row is not None
            return int(row[0])

        task = asyncio.create_task(sleep())
        async with asyncio.timeout(20):
            while await sleepers() == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while await sleepers() > 0:
                await asyncio.sleep(0.01)
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1


@pytest.mark.session
async def test_renew_replaces_connections_that_still_work(database: Database) -> None:
    pid = sa.text("SELECT pg_backend_pid()")
    async with database.read() as connection:
        first = (await connection.execute(pid)).scalar_one()
    async with database.read() as connection:
        assert (await connection.execute(pid)).scalar_one() == first
    database.renew()
    async with database.read() as connection:
        assert (await connection.execute(pid)).scalar_one() != first


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Unavailable) as caught:
        await nowhere.ping()
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    await nowhere.aclose()


async def test_a_table_that_is_missing_is_a_migration_that_is_missing(database: Database) -> None:
    with pytest.raises(Unavailable) as caught:
        async with database.read() as connection:
            await connection.execute(sa.text("SELECT * FROM users.nothing"))
    assert caught.value.reason == "DATABASE_NOT_MIGRATED"


@pytest.mark.session
async def test_readiness_follows_the_database_and_renews_its_connections(
    database: Database, database_urls: dict[str, str]
) -> None:
    changes: list[tuple[str, str]] = []
    readiness = Readiness(database, on_change=lambda *change: changes.append(change), interval=0.02)
    await readiness.start()
    assert (readiness.ready, changes) == (True, [])
    async with database.read():
        pass
    async with refused_logins(database_urls["owner"]):
        # A connection that was being checked is terminated, which may be reported first.
        await eventually(lambda: any("not permitted to log in" in detail for _, detail in changes), 20)
        assert not readiness.ready
    await eventually(lambda: readiness.ready, 20)
    *unavailable, last = [reason for reason, _ in changes]
    assert (set(unavailable), last) == ({"DATABASE_UNAVAILABLE"}, "")
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1
    await readiness.aclose()


async def test_readiness_wants_the_tables_and_an_answer_in_time(database: Database) -> None:
    changes: list[tuple[str, str]] = []
    readiness = Readiness(
        database, "SELECT FROM users.nothing", on_change=lambda *change: changes.append(change), interval=60
    )
    await readiness.start()
    assert not readiness.ready
    assert changes == [("DATABASE_NOT_MIGRATED", 'relation "users.nothing" does not exist')]
    await readiness.aclose()
    slow = Readiness(database, "SELECT pg_sleep(60)", interval=60)
    await slow.start()
    assert not slow.ready
    await slow.aclose()
    await Readiness(database).aclose()


async def test_statement_of_a_sampled_call_has_a_span_without_values(database_urls: dict[str, str]) -> None:
    spans = Spans()
    database = Database(database_urls["users"], tracer=spans.tracer)
    canary = "canary-31fe"
    try:
        async with database.read() as connection:
            await connection.execute(sa.select(sa.literal(canary)))
            with use_span(NonRecordingSpan(SpanContext(5, 6, is_remote=False))):
                await connection.execute(sa.select(sa.literal(canary)))
            assert spans.finished() == []
            with spans.tracer.start_as_current_span("call"):
                await connection.execute(sa.select(sa.literal(canary)))
                with pytest.raises(sa.exc.ProgrammingError):
                    await connection.execute(sa.text("SELECT * FROM missing"))
    finally:
        await database.aclose()
    good, bad, call = spans.finished()
    assert [good.name, bad.name, call.name] == ["SELECT", "SELECT", "call"]
    assert good.parent == call.context
    assert bad.status.status_code is StatusCode.ERROR
    assert (bad.attributes or {})["error.type"] == "UndefinedTable"
    assert canary not in spans.as_text()
