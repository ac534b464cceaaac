"""Storage behind a pooler in transaction mode, such as PgBouncer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import sqlalchemy as sa

from gatehouse.app.services import migration_branches
from gatehouse.storage import Connector, Database, DirectSelect, Notifications, Readiness
from gatehouse.storage.errors import DatabaseUnavailable
from gatehouse.storage.migrations import check_migrations, migrate
from tests.support.pooler import run_pooler
from tests.support.services import run_sql

TIMEOUT = sa.select(sa.func.current_setting(sa.literal_column("'statement_timeout'")).label("timeout"))
TIMEOUT_QUERY = DirectSelect(TIMEOUT)
INSERT = sa.text("INSERT INTO users.requests VALUES (:s, gen_random_uuid(), '', '', now())")
COUNT = sa.text("SELECT count(*) FROM users.requests WHERE subject = :s")
DEADLINES = {0.2: "250ms", 1.0: "1s", 5.0: "5s", None: "30s"}


@pytest.fixture
async def pooled(database_urls: dict[str, str]) -> AsyncIterator[str]:
    """The database URL of UserService through a pooler."""
    url = sa.make_url(database_urls["users"])
    async with run_pooler(url.port or 0) as port:
        yield f"postgresql://{url.username}@127.0.0.1:{port}/{url.database}"


async def test_pooler_refuses_options(pooled: str) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        await Connector(f"{pooled}?options=-c%20geqo%3Doff").open()
    assert "unsupported startup parameter: options" in caught.value.detail


async def test_statement_timeouts_of_concurrent_calls_do_not_mix(pooled: str) -> None:
    database = Database(pooled, pool_size=6)

    async def call(deadline: float | None) -> None:
        # psycopg prepares a statement at its sixth execution.
        for _ in range(8):
            for way in (database.read, database.write, database.snapshot):
                async with way(deadline) as connection:
                    assert (await connection.execute(TIMEOUT)).scalar_one() == DEADLINES[deadline]
            assert (await TIMEOUT_QUERY.first(database, {}, deadline)).timeout == DEADLINES[deadline]

    await asyncio.gather(*map(call, DEADLINES), *map(call, DEADLINES))
    await database.aclose()


async def test_writes_are_committed_or_rolled_back(pooled: str) -> None:
    database = Database(pooled, pool_size=2)
    for subject, error in (("kept", None), ("lost", ZeroDivisionError)):
        with suppress(ZeroDivisionError):
            async with database.write() as connection:
                await connection.execute(INSERT, {"s": subject})
                if error is not None:
                    raise error
    async with database.read() as connection:
        for subject, count in (("kept", 1), ("lost", 0)):
            assert (await connection.execute(COUNT, {"s": subject})).scalar_one() == count
    await database.aclose()


async def test_service_is_ready_and_listens_without_an_error(pooled: str) -> None:
    database = Database(pooled)
    readiness = Readiness(database, "SELECT FROM users.users", writable=True, interval=60)
    await readiness.start()
    assert readiness.ready
    notifications = Notifications(database.connector, "channel")
    await notifications.start()
    await notifications.wait(60)  # it woke its reader when it was ready
    await notifications.aclose()
    await readiness.aclose()
    await database.aclose()


async def test_migrations_run_behind_a_pooler(database_urls: dict[str, str]) -> None:
    owner = database_urls["owner"]
    await run_sql(owner, "CREATE DATABASE behind_pooler")
    url = sa.make_url(owner)
    try:
        async with run_pooler(url.port or 0) as port:
            pooled = f"postgresql://{url.username}@127.0.0.1:{port}/behind_pooler"
            branches = migration_branches()
            applied = await asyncio.to_thread(migrate, pooled, branches)
            assert len(applied) >= len(branches)
            assert await asyncio.to_thread(check_migrations, pooled, branches) == []
    finally:
        await run_sql(owner, "DROP DATABASE behind_pooler WITH (FORCE)")
