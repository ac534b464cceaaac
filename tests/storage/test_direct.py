"""DirectSelect: rows, deadlines, outages, cancellation and spans are the same as with Database.read."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import psycopg
import pytest
import sqlalchemy as sa
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, use_span

from gatehouse.domain import Unavailable
from gatehouse.storage import Database, DirectSelect
from gatehouse.users.tables import users
from tests.support.telemetry import Spans

BY_ID = DirectSelect(sa.select(users).where(users.c.user_id == sa.bindparam("user_id")))
SLEEP = DirectSelect(sa.select(sa.func.pg_sleep(sa.bindparam("seconds"))))
OWN_PID = DirectSelect(sa.select(sa.func.pg_backend_pid().label("pid")))


@pytest.fixture
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    opened = Database(database_urls["users"], pool_size=1)
    yield opened
    await opened.aclose()


async def add_user(database: Database) -> uuid.UUID:
    key = uuid.uuid4()
    now = sa.func.now()
    async with database.write() as connection:
        await connection.execute(
            users.insert().values(
                user_id=key,
                email=f"{key}@example.com",
                display_name="Alice",
                state=1,
                create_time=now,
                update_time=now,
                version=7,
            )
        )
    return key


async def test_row_has_the_names_and_values_of_its_columns(database: Database) -> None:
    key = await add_user(database)
    row = await BY_ID.first(database, {"user_id": key})
    async with database.read() as connection:
        same = (await connection.execute(sa.select(users).where(users.c.user_id == key))).one()
    assert row._asdict() == same._asdict()
    assert (row.user_id, row.version) == (key, 7)


async def test_missing_row_is_none(database: Database) -> None:
    assert await BY_ID.first(database, {"user_id": uuid.uuid4()}) is None


def test_column_that_sqlalchemy_converts_is_refused() -> None:
    with pytest.raises(ValueError, match="SQLAlchemy converts"):
        DirectSelect(sa.select(sa.column("kind", sa.Enum("a", "b", name="kind"))))


async def test_statement_is_cancelled_at_the_deadline(database: Database) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await SLEEP.first(database, {"seconds": 30}, 0.1)
    assert caught.value.reason == "STATEMENT_TIMEOUT"
    assert time.monotonic() - began < 15
    assert database.pool_in_use() == 0


async def test_cancelling_the_call_cancels_its_statement(
    database: Database, database_urls: dict[str, str]
) -> None:
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    task = asyncio.create_task(SLEEP.first(database, {"seconds": 30}))
    with psycopg.connect(database_urls["owner"], autocommit=True) as owner:
        async with asyncio.timeout(30):
            while owner.execute(running).fetchone() != (1,):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert owner.execute(running).fetchone() == (0,)
    assert database.pool_in_use() == 0
    assert (await OWN_PID.first(database, {})).pid


async def test_write_can_be_rolled_back_on_a_connection_that_was_used_directly(database: Database) -> None:
    key = await add_user(database)
    assert (await BY_ID.first(database, {"user_id": key})).user_id == key

    async def delete_and_fail() -> None:
        async with database.write() as connection:
            await connection.execute(users.delete().where(users.c.user_id == key))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await delete_and_fail()
    assert (await BY_ID.first(database, {"user_id": key})).user_id == key


async def test_statement_of_a_sampled_call_has_a_span_without_values(
    database_urls: dict[str, str],
) -> None:
    spans = Spans()
    tracer = spans.tracer
    database = Database(database_urls["users"], tracer=tracer)
    try:
        await BY_ID.first(database, {"user_id": uuid.uuid4()})
        with use_span(NonRecordingSpan(SpanContext(5, 6, is_remote=False))):
            await BY_ID.first(database, {"user_id": uuid.uuid4()})
        assert spans.finished() == []
        with tracer.start_as_current_span("call"):
            await BY_ID.first(database, {"user_id": (canary := uuid.uuid4())})
            with pytest.raises(Unavailable):
                await SLEEP.first(database, {"seconds": 30}, 0.1)
    finally:
        await database.aclose()
    good, bad, call = spans.finished()
    assert good.parent is not None
    assert call.context is not None
    assert good.parent.span_id == call.context.span_id
    assert (good.name, good.kind) == ("SELECT", SpanKind.CLIENT)
    assert "users.users" in str((good.attributes or {})["db.query.text"])
    assert str(canary) not in good.to_json()
    assert bad.status.status_code is StatusCode.ERROR
    assert (bad.attributes or {})["error.type"] == "QueryCanceled"
