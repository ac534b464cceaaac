"""Commits that wait for a synchronous standby: none is acknowledged that a failover would lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from gatehouse.storage import Database
from gatehouse.storage.errors import DatabaseUnavailable
from tests.support.database import owner_url, run_postgres
from tests.support.eventually import eventually

INSERT = sa.text("INSERT INTO writes VALUES (:name)")
NAMES = sa.text("SELECT name FROM writes ORDER BY name")


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with run_postgres() as server:
        with psycopg.connect(owner_url(server), autocommit=True) as connection:
            connection.execute("CREATE TABLE writes (name text PRIMARY KEY)")
        yield owner_url(server)


@pytest.fixture
async def database(server_url: str) -> AsyncIterator[Database]:
    opened = Database(server_url, pool_size=2)
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(server_url: str) -> AsyncIterator[Database]:
    opened = Database(server_url, pool_size=1)
    yield opened
    await opened.aclose()


async def run(url: str, statement: str) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def require_standby(url: str, name: str) -> None:
    """Let commits wait for a standby, which does not exist; "" for none."""
    await run(url, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    await run(url, "SELECT pg_reload_conf()")

    async def applies() -> bool:
        return await run(url, "SHOW synchronous_standby_names") == [(name,)]

    await eventually(applies)


async def waiting(url: str) -> int:
    rows = await run(url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    return int(rows[0][0])


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(NAMES)).scalars())


async def write(database: Database, name: str) -> None:
    async with database.write(0.25) as connection:
        await connection.execute(INSERT, {"name": name})


async def test_cancelled_commit_is_not_visible_before_a_standby_has_it(
    server_url: str, database: Database, other: Database
) -> None:
    await require_standby(server_url, "standby")
    writing = [asyncio.create_task(write(database, name)) for name in ("short", "long")]

    async def both() -> bool:
        return await waiting(server_url) == len(writing)

    await eventually(both)

    writing[0].cancel()
    await asyncio.wait({writing[0]}, timeout=0.5)
    assert not writing[0].done()  # its connection is in use until the commit ends
    with pytest.raises(DatabaseUnavailable) as caught:  # a retry waits for the first attempt
        await write(other, "short")
    assert caught.value.reason == "STATEMENT_TIMEOUT"

    await require_standby(server_url, "")
    results = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, type(None)]
    assert await names(database) == ["long", "short"]
    await write(database, "after")


async def test_commit_that_does_not_end_frees_its_connection_and_continues(
    server_url: str, other: Database
) -> None:
    await require_standby(server_url, "standby")
    writing = asyncio.create_task(write(other, "abandoned"))
    await eventually(lambda: waiting(server_url))
    writing.cancel()
    await asyncio.wait({writing})
    assert writing.cancelled()
    assert "abandoned" not in await names(other)
    assert await waiting(server_url) == 1

    await require_standby(server_url, "")

    async def committed() -> bool:
        return "abandoned" in await names(other)

    await eventually(committed)
