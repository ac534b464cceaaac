"""Connections that PostgreSQL terminates leave the pool at once and fail no later call."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from gatehouse.domain import Unavailable
from gatehouse.storage import Connector, Database, DirectSelect, Notifications, Readiness
from gatehouse.storage.connecting import Connection, has_ended
from gatehouse.storage.errors import DatabaseUnavailable, unavailable_errors
from gatehouse.storage.probe import Probe
from tests.support.eventually import eventually

ROLE = "gatehouse_users"
POOL_SIZE = 3
READERS = 6
OWN_PID = sa.select(sa.func.pg_backend_pid().label("pid"))
OWN_PID_QUERY = DirectSelect(OWN_PID)
SLEEP = sa.text("SELECT pg_sleep(60)")
SLEEP_QUERY = DirectSelect(sa.select(sa.func.pg_sleep(sa.bindparam("seconds"))))
ADD_REQUEST = sa.text("INSERT INTO users.requests VALUES ('s', :id, '', '', now())")
HAS_REQUEST = sa.text("SELECT count(*) FROM users.requests WHERE request_id = :id")

WAYS = ["read", "write", "snapshot", "direct"]


@pytest.fixture
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    opened = Database(database_urls["users"], pool_size=POOL_SIZE)
    yield opened
    await opened.aclose()


@pytest.fixture
async def owner(database_urls: dict[str, str]) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def no_pool_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail the test if SQLAlchemy had to clean up a broken connection: it logs that as an error."""
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.WARNING] == []


async def terminate(owner: psycopg.AsyncConnection, *pids: int, wait_ms: int = 10_000) -> int:
    """Terminate these connections of the role, or all of them; wait for their end and return how many."""
    cursor = await owner.execute(
        "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity"
        " WHERE usename = %s AND datname = current_database() AND (pid = ANY(%s) OR %s)",
        [wait_ms, ROLE, list(pids), not pids],
    )
    return sum(row[0] for row in await cursor.fetchall())  # false: it had ended by itself


async def pid_by(database: Database, way: str, deadline: float | None = None) -> int:
    """Return the process id of the connection that a call gets."""
    if way == "direct":
        return int((await OWN_PID_QUERY.first(database, {}, deadline)).pid)
    opened = {"read": database.read, "write": database.write, "snapshot": database.snapshot}[way]
    async with opened(deadline) as connection:
        return int((await connection.execute(OWN_PID)).scalar_one())


async def fill_pool(database: Database) -> set[int]:
    """Open every connection that the pool may have, give them back, and return their process ids."""
    all_open = asyncio.Barrier(POOL_SIZE)

    async def hold() -> int:
        async with database.read(1.0) as connection:
            await all_open.wait()
            return int((await connection.execute(OWN_PID)).scalar_one())

    return set(await asyncio.gather(*(hold() for _ in range(POOL_SIZE))))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a backend of the embedded PostgreSQL, so that what is sent to it stays unanswered."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("deadline", [1.0, 5.0], ids=["same-timeout", "other-timeout"])
@pytest.mark.parametrize("way", WAYS)
async def test_connections_terminated_while_idle_cost_no_call(
    database: Database, owner: psycopg.AsyncConnection, way: str, deadline: float
) -> None:
    before = await fill_pool(database)
    assert await terminate(owner, *before) == POOL_SIZE
    after = set(await asyncio.gather(*(pid_by(database, way, deadline) for _ in range(10))))
    assert after.isdisjoint(before)
    assert database.pool_in_use() == 0


async def test_readers_lose_at_most_the_calls_in_flight_when_all_connections_are_terminated(
    database: Database, owner: psycopg.AsyncConnection
) -> None:
    pooled = await fill_pool(database)
    stop = asyncio.Event()
    terminated = asyncio.Event()
    failed_in_flight: list[str] = []
    good_after = 0

    async def read_in_a_loop(number: int) -> None:
        nonlocal good_after
        turn = number
        while not stop.is_set():
            turn += 1
            started_after = terminated.is_set()
            try:
                # Two deadlines, so that the statement timeout changes again and again.
                await pid_by(database, WAYS[turn % len(WAYS)], (1.0, 5.0)[turn // 3 % 2])
            except Unavailable as error:
                assert not started_after, "a call failed that began after the connections had ended"
                failed_in_flight.append(error.reason)
            else:
                good_after += started_after

    readers = [asyncio.create_task(read_in_a_loop(number)) for number in range(READERS)]
    assert await terminate(owner, *pooled) > 0
    terminated.set()
    await eventually(lambda: good_after >= 100 or any(reader.done() for reader in readers), 30)
    stop.set()
    await asyncio.gather(*readers)
    assert len(failed_in_flight) <= READERS
    assert set(failed_in_flight) <= {"DATABASE_UNAVAILABLE"}
    assert database.pool_in_use() == 0


@pytest.mark.parametrize("way", WAYS)
async def test_connection_lost_while_its_timeout_is_set_leaves_the_pool(
    database_urls: dict[str, str], owner: psycopg.AsyncConnection, way: str
) -> None:
    database = Database(database_urls["users"], pool_size=1)
    first = await pid_by(database, "read", 1.0)
    with stopped(first):
        call = asyncio.create_task(pid_by(database, way, 5.0))
        await eventually(lambda: database.pool_in_use() == 1)
        await owner.execute("SELECT pg_terminate_backend(%s)", [first])
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert database.pool_in_use() == 0
    assert await pid_by(database, way, 5.0) != first
    await database.aclose()


@pytest.mark.parametrize("way", WAYS)
async def test_statement_that_loses_its_connection_fails_once(
    database: Database, owner: psycopg.AsyncConnection, way: str
) -> None:
    async def sleep() -> None:
        if way == "direct":
            await SLEEP_QUERY.first(database, {"seconds": 60})
            return
        async with getattr(database, way)() as connection:
            await connection.execute(SLEEP)

    call = asyncio.create_task(sleep())
    await terminate_sleeper(owner)
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert database.pool_in_use() == 0
    assert await pid_by(database, way)


async def terminate_sleeper(owner: psycopg.AsyncConnection) -> None:
    """Terminate the connection that is executing pg_sleep, once there is one."""
    async with asyncio.timeout(20):
        while True:
            cursor = await owner.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE usename = %s AND datname = current_database()"
                " AND state = 'active' AND query LIKE 'SELECT pg_sleep%%'",
                [ROLE],
            )
            if await cursor.fetchone() is not None:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("moment", ["before the statement", "before the commit"])
async def test_write_whose_connection_is_lost_fails_once_and_writes_nothing(
    database: Database, owner: psycopg.AsyncConnection, moment: str
) -> None:
    lost, kept = uuid.uuid4(), uuid.uuid4()

    async def write(key: uuid.UUID, terminated_at: str = "") -> None:
        async with database.write() as connection:
            pid = (await connection.execute(OWN_PID)).scalar_one()
            if terminated_at == "before the statement":
                await terminate(owner, pid)
            await connection.execute(ADD_REQUEST, {"id": key})
            if terminated_at == "before the commit":
                await terminate(owner, pid)

    with pytest.raises(Unavailable) as caught:
        await write(lost, moment)
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    assert database.pool_in_use() == 0
    await write(kept)
    async with database.read() as connection:
        for key, count in ((lost, 0), (kept, 1)):
            assert (await connection.execute(HAS_REQUEST, {"id": key})).scalar_one() == count


async def test_health_connection_terminated_while_idle_is_opened_again(
    database: Database, owner: psycopg.AsyncConnection
) -> None:
    await database.ping()
    assert await terminate(owner) > 0
    await database.ping()


async def test_health_connection_terminated_while_it_answers_fails_one_probe(
    database: Database, owner: psycopg.AsyncConnection
) -> None:
    probe = asyncio.create_task(database.ping("SELECT pg_sleep(0.9)"))
    await terminate_sleeper(owner)
    with pytest.raises(Unavailable) as caught:
        await probe
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    await database.ping()


async def test_readiness_recovers_however_often_its_connection_is_terminated(
    database: Database, owner: psycopg.AsyncConnection
) -> None:
    readiness = Readiness(database, interval=0.01)
    await readiness.start()
    terminated = 0
    # At any moment of its life: while it is idle, answers, or is still being opened.
    async with asyncio.timeout(30):
        while terminated < 100:
            terminated += await terminate(owner, wait_ms=0)
    await eventually(lambda: readiness.ready)
    await readiness.aclose()


@pytest.mark.session
async def test_notifications_listen_again_after_their_connection_is_terminated(
    database_urls: dict[str, str], owner: psycopg.AsyncConnection
) -> None:
    async def listener() -> int:
        async with asyncio.timeout(20):
            while True:
                cursor = await owner.execute(
                    "SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND query LIKE 'LISTEN \"lost\"%'"
                )
                if (row := await cursor.fetchone()) is not None:
                    return int(row[0])
                await asyncio.sleep(0.01)

    notifications = Notifications(Connector(database_urls["users"]), "lost", retry=0.01)
    await notifications.start()
    first = await listener()
    await terminate(owner, first)
    assert await listener() != first
    async with asyncio.timeout(20):
        waiting = asyncio.create_task(notifications.wait(60))
        while not waiting.done():
            await owner.execute("NOTIFY lost")
            await asyncio.sleep(0.01)
    await notifications.wait(0.001)
    await notifications.aclose()
    await Notifications(Connector(database_urls["users"]), "lost").aclose()


@pytest.mark.session
async def test_connection_has_ended_if_either_side_has_closed_it(
    database_urls: dict[str, str], owner: psycopg.AsyncConnection
) -> None:
    ours = await psycopg.AsyncConnection.connect(database_urls["users"])
    theirs = await psycopg.AsyncConnection.connect(database_urls["users"])
    assert not has_ended(ours)
    await ours.close()
    assert has_ended(ours)
    await terminate(owner, theirs.info.backend_pid)
    assert has_ended(theirs)
    await theirs.close()


def test_error_that_invalidates_a_connection_means_that_the_database_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable) as caught, unavailable_errors():
        raise sa.exc.DBAPIError("SELECT 1", {}, Exception(), connection_invalidated=True)
    assert (caught.value.reason, caught.value.detail) == ("DATABASE_UNAVAILABLE", "the connection was lost")


async def test_abandoned_check_closes_its_connection_even_if_the_answer_has_arrived(
    database_urls: dict[str, str],
) -> None:
    opened: list[Connection] = []

    class Recorder(Connector):
        async def open(self) -> Connection:
            opened.append(await super().open())
            return opened[-1]

    probe = Probe(Recorder(database_urls["users"]))
    await probe.run("SELECT 1", timeout=60)
    check = asyncio.create_task(probe.run("SELECT pg_sleep(0.1)", timeout=60))
    for _ in range(3):  # until the statement is sent
        await asyncio.sleep(0)
    answered, _, _ = select.select([opened[0].fileno()], [], [], 60)  # the event loop does not see the answer
    assert answered
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    await probe.aclose()
    assert [connection.closed for connection in opened] == [True]


@pytest.mark.session
async def test_check_whose_connection_is_terminated_is_repeated_on_another(
    database_urls: dict[str, str], owner: psycopg.AsyncConnection
) -> None:
    probe = Probe(Connector(database_urls["users"]))
    (pid,) = await probe.run("SELECT pg_backend_pid()", timeout=60)
    # Waits in the first connection only.
    check = asyncio.create_task(
        probe.run(f"SELECT CASE pg_backend_pid() WHEN {pid} THEN pg_sleep(60) END", timeout=50)
    )

    async def is_checking() -> bool:
        cursor = await owner.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [pid])
        return await cursor.fetchone() == ("PgSleep",)

    await eventually(is_checking)
    await terminate(owner, pid)
    await check
    (other,) = await probe.run("SELECT pg_backend_pid()", timeout=60)
    assert other != pid
    await probe.aclose()


async def test_direct_query_that_is_cancelled_leaves_no_transaction_open(
    database_urls: dict[str, str],
) -> None:
    database = Database(database_urls["users"], pool_size=1)
    await OWN_PID_QUERY.first(database, {})
    for turns in range(40):  # cancelled at each point of the call
        call = asyncio.create_task(OWN_PID_QUERY.first(database, {}, (1.0, 5.0)[turns % 2]))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with database.read() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, Connection)
            assert driver.pooled or driver.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        async with database.driver() as first:
            pass
        async with database.driver() as second:
            assert second is first  # the pool keeps a connection that nobody cancelled
    assert database.pool_in_use() == 0
    await database.aclose()
