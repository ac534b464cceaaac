"""What callers and operators see of a database that cannot be used: SQLSTATEs, standbys, logins, silence."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from gatehouse.storage import Connector, Database, DirectSelect, Readiness
from gatehouse.storage.errors import DatabaseUnavailable
from tests.support.database import named
from tests.support.eventually import eventually
from tests.support.services import run_sql

OWN_PID = DirectSelect(sa.select(sa.func.pg_backend_pid().label("pid")))
INSERT = sa.text("INSERT INTO users.requests VALUES ('s', gen_random_uuid(), '', '', now())")


@pytest.fixture
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    opened = Database(database_urls["users"], pool_size=1)
    yield opened
    await opened.aclose()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("08006", "DATABASE_UNAVAILABLE"),
        ("0A000", "DATABASE_UNAVAILABLE"),
        ("25006", "DATABASE_READ_ONLY"),
        ("25P03", "DATABASE_UNAVAILABLE"),
        ("28P01", "DATABASE_UNAVAILABLE"),
        ("3F000", "DATABASE_NOT_MIGRATED"),
        ("40001", "DATABASE_CONFLICT"),
        ("40P01", "DATABASE_CONFLICT"),
        ("42P01", "DATABASE_NOT_MIGRATED"),
        ("53100", "DATABASE_FULL"),
        ("53200", "DATABASE_BUSY"),
        ("53300", "DATABASE_BUSY"),
        ("55000", "DATABASE_UNAVAILABLE"),
        ("55P03", "DATABASE_BUSY"),
        ("57014", "STATEMENT_TIMEOUT"),
        ("57P01", "DATABASE_UNAVAILABLE"),
        ("57P03", "DATABASE_UNAVAILABLE"),
        ("58030", "DATABASE_UNAVAILABLE"),
    ],
)
async def test_sqlstate_decides_what_the_caller_sees(database: Database, state: str, reason: str) -> None:
    for way in (database.read, database.write):
        with pytest.raises(DatabaseUnavailable) as caught:
            async with way() as connection:
                await connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
        assert caught.value.reason == reason
        assert database.pool_in_use() == 0
    async with database.read() as connection:
        await connection.execute(sa.text("SELECT 1"))


@pytest.mark.session
async def test_prepared_statement_from_before_a_migration_fails_once(
    database: Database, database_urls: dict[str, str]
) -> None:
    everything = DirectSelect(sa.select(sa.literal_column("*")).select_from(sa.table("migrating")))
    with psycopg.connect(database_urls["owner"], autocommit=True) as owner:
        owner.execute("CREATE TABLE migrating (a int); INSERT INTO migrating VALUES (1)")
        owner.execute("GRANT SELECT ON migrating TO gatehouse_users")
        try:
            for _ in range(10):  # psycopg prepares a statement that is repeated
                assert await everything.first(database, {}) == (1,)
            owner.execute("ALTER TABLE migrating ADD b int")
            with pytest.raises(DatabaseUnavailable):
                await everything.first(database, {})
            assert await everything.first(database, {}) == (1, None)
        finally:
            owner.execute("DROP TABLE migrating")


@pytest.mark.parametrize("state", ["22012", "23505", "42501", "P0001", "XX001"])
async def test_other_errors_are_not_the_database_being_unavailable(database: Database, state: str) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        async with database.read() as connection:
            await connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")


@contextmanager
def read_only_sessions(owner: str) -> Iterator[None]:
    """Make the sessions that the login role opens meanwhile read-only, as those of a standby are."""
    statement = "ALTER ROLE gatehouse_users {} default_transaction_read_only"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(statement.format("SET").encode() + b" = on")
        try:
            yield
        finally:
            connection.execute(statement.format("RESET").encode())


@pytest.mark.session
async def test_connection_to_a_read_only_server_is_dropped(
    database: Database, database_urls: dict[str, str]
) -> None:
    with read_only_sessions(database_urls["owner"]):
        before = (await OWN_PID.first(database, {})).pid
        async with database.snapshot():
            pass  # afterwards the connection still follows the default of the server
        with pytest.raises(DatabaseUnavailable) as caught:
            async with database.write() as connection:
                await connection.execute(INSERT)
    assert caught.value.reason == "DATABASE_READ_ONLY"
    async with database.write() as connection:
        await connection.execute(INSERT)
    assert (await OWN_PID.first(database, {})).pid != before


@pytest.mark.session
async def test_readiness_needs_a_server_that_accepts_changes_unless_the_service_only_reads(
    database: Database, database_urls: dict[str, str]
) -> None:
    changes: list[str] = []
    with read_only_sessions(database_urls["owner"]):
        writer = Readiness(
            database, writable=True, on_change=lambda reason, _: changes.append(reason), interval=0.02
        )
        await writer.start()
        assert not writer.ready
        other = Database(database_urls["users"])
        reader = Readiness(other, interval=60)
        await reader.start()
        assert reader.ready
        await reader.aclose()
        await other.aclose()
        pid = (await OWN_PID.first(database, {})).pid
    await eventually(lambda: writer.ready)
    assert changes == ["DATABASE_READ_ONLY", ""]
    # The pool leaves the read-only server as well.
    assert (await OWN_PID.first(database, {})).pid != pid
    await writer.aclose()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_readiness_does_not_wait_for_a_server_that_does_not_respond(
    database: Database, database_urls: dict[str, str]
) -> None:
    changes: list[str] = []
    readiness = Readiness(database, on_change=lambda reason, _: changes.append(reason), interval=0.02)
    await readiness.start()
    ((pid,),) = await run_sql(
        database_urls["owner"],
        "SELECT pid FROM pg_stat_activity WHERE usename = 'gatehouse_users' AND datname = current_database()",
    )
    loop = asyncio.get_running_loop()
    with stopped(pid):
        began = loop.time()
        await eventually(lambda: changes == ["DATABASE_TIMEOUT", ""])
        # Cancelling the statement would take 10 s more.
        assert loop.time() - began < 9
    await readiness.aclose()


@pytest.mark.session
async def test_readiness_reports_that_new_connections_are_refused(database_urls: dict[str, str]) -> None:
    urls = [database_urls["users"]]
    database = Database(lambda: urls[-1], pool_size=2)
    changes: list[tuple[str, str]] = []
    readiness = Readiness(database, on_change=lambda *change: changes.append(change), interval=0.02)
    await readiness.start()
    async with database.read():
        # As after a change of the password: open connections stay usable, new ones are refused.
        urls.append(named(urls[0], str(sa.make_url(urls[0]).database), "nobody", "canary-7a1"))
        with pytest.raises(DatabaseUnavailable):
            async with database.read():
                pass
        await eventually(lambda: not readiness.ready)
        assert [reason for reason, _ in changes] == ["DATABASE_UNAVAILABLE"]
        assert 'role "nobody" does not exist' in changes[0][1]
        assert "canary" not in changes[0][1]
        # The URL is read again for each connection.
        urls.append(database_urls["users"])
        await eventually(lambda: readiness.ready)
        async with database.read():
            pass
    await readiness.aclose()
    await database.aclose()


async def test_missing_privilege_makes_the_service_not_ready(
    database: Database, database_urls: dict[str, str]
) -> None:
    changes: list[tuple[str, str]] = []
    readiness = Readiness(database, "SELECT FROM pg_authid", on_change=lambda *change: changes.append(change))
    await readiness.start()
    assert changes == [("DATABASE_ACCESS_DENIED", "permission denied for table pg_authid")]
    await readiness.aclose()


@pytest.mark.session
async def test_parameters_of_the_operator_are_kept(database_urls: dict[str, str]) -> None:
    url = (
        f"{database_urls['users']}&application_name=mine"
        "&options=-c%20geqo%3Doff%20-c%20statement_timeout%3D700%20-c%20idle_in_transaction_session_timeout%3D5s"
    )
    database = Database(url, pool_size=1)
    shown = [
        "current_setting('application_name')",
        "current_setting('geqo')",
        "current_setting('idle_in_transaction_session_timeout')",
        "current_setting('statement_timeout')",
    ]
    query = sa.text(f"SELECT {', '.join(shown)}")
    for deadline, timeout in ((0.2, "250ms"), (None, "700ms"), (5.0, "700ms")):
        async with database.read(deadline) as connection:
            assert (await connection.execute(query)).one() == ("mine", "off", "5s", timeout)
    await database.aclose()


async def test_all_connections_use_the_host_of_several_that_responds(database_urls: dict[str, str]) -> None:
    url = sa.make_url(database_urls["users"])
    login = f"postgresql://{url.username}@"
    for address in (
        f"/{url.database}?host=127.0.0.1:1&host=127.0.0.1:{url.port}",
        f"/{url.database}?host=127.0.0.1,127.0.0.1&port=1,{url.port}",
        f"127.0.0.1:1,127.0.0.1:{url.port}/{url.database}",
    ):
        database = Database(login + address)
        await database.ping()
        assert await OWN_PID.first(database, {})
        connection: Any = await Connector(login + address).open()
        await connection.close()
        await database.aclose()


async def test_url_with_an_unknown_parameter_is_reported() -> None:
    database = Database("postgresql://u:canary@127.0.0.1:1/d?sslmod=require")
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.ping()
    assert "sslmod" in caught.value.detail
    assert "canary" not in caught.value.detail
    await database.aclose()
