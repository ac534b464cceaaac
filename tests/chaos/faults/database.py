"""Faults of PostgreSQL and of the network to it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

from tests.chaos.environment import Environment, Target
from tests.chaos.model import TIMES_OUT, UNAVAILABLE, Fault, Run

_DATABASE = frozenset({"DATABASE_UNAVAILABLE", "DATABASE_BUSY", "STATEMENT_TIMEOUT"})
_WRITES = frozenset({"create_user"})


@asynccontextmanager
async def _killed(run: Run) -> AsyncIterator[None]:
    processes = run.environment.postgres_processes()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await run.until(lambda: not any(_runs(process) for process in processes))
    try:
        yield
    finally:
        await run.environment.stack.start_database()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def _restarted(run: Run) -> AsyncIterator[None]:
    await run.environment.stack.stop_database()
    try:
        yield
    finally:
        await run.environment.stack.start_database()


@asynccontextmanager
async def _stopped(run: Run) -> AsyncIterator[None]:
    # The first process last: it starts no others meanwhile.
    processes = run.environment.postgres_processes()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def _cut(run: Run) -> AsyncIterator[None]:
    async with run.environment.failing_network(refuse=True):
        yield


@asynccontextmanager
async def _hanging(run: Run) -> AsyncIterator[None]:
    async with run.environment.failing_network(blackhole=True):
        yield


@asynccontextmanager
async def _terminated(run: Run) -> AsyncIterator[None]:
    for _ in range(3):
        await _terminate_backends(run.environment)
        await run.calls()
    yield


async def _terminate_backends(environment: Environment) -> None:
    await environment.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


@asynccontextmanager
async def _read_only(run: Run) -> AsyncIterator[None]:
    environment = run.environment
    await environment.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    await environment.sql("SELECT pg_reload_conf()")
    try:
        refused = await run.until(lambda: run.failures, 10)
        run.guarantee("writes are refused", refused)
        yield
    finally:
        await environment.sql("ALTER SYSTEM RESET default_transaction_read_only")
        await environment.sql("SELECT pg_reload_conf()")


@asynccontextmanager
async def _with_password_file(environment: Environment) -> AsyncIterator[Target]:
    """Run a replica that reads the password of its role from a file."""
    login = urlsplit(environment.settings()["GATEHOUSE_USERS__DATABASE_URL"])
    url = urlunsplit(login._replace(netloc=f"{login.username}@{login.hostname}:{login.port}"))
    folder = environment.stack.folder / "secrets"
    folder.mkdir(exist_ok=True)
    file = folder / "gatehouse_users__database_password"
    file.write_text(login.password or "")
    settings = {"GATEHOUSE_USERS__DATABASE_URL": url, "GATEHOUSE_SECRETS_DIR": str(folder)}
    async with environment.replicas(**settings) as target:
        target.control = file
        yield target


@asynccontextmanager
async def _password_changed(run: Run) -> AsyncIterator[None]:
    """Change the password of the role and its file, and close the connections with the old one."""
    file: Path = run.target.control
    old, new = file.read_text(), secrets.token_urlsafe(24)
    role = urlsplit(run.environment.stack.postgres.urls()["users"]).username
    try:
        file.write_text(new)
        await run.environment.sql(f"ALTER ROLE {role} PASSWORD '{new}'")
        await _terminate_backends(run.environment)
        run.guarantee("calls succeed with the new password", await run.calls(succeed=True))
        yield
    finally:
        file.write_text(old)
        await run.environment.sql(f"ALTER ROLE {role} PASSWORD '{old}'")


@asynccontextmanager
async def _out_of_connections(run: Run) -> AsyncIterator[None]:
    """Take all connections that are not reserved, then close those of the services."""
    environment = run.environment
    url = environment.stack.postgres.urls()["public"]
    taken: list[psycopg.AsyncConnection[object]] = []

    async def take_all() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.append(await psycopg.AsyncConnection.connect(url))

    await take_all()
    keep = [connection.info.backend_pid for connection in taken]
    try:
        for _ in range(3):  # a service may take a connection before this does
            await environment.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND pid <> pg_backend_pid() AND pid <> ALL(%s)",
                [keep],
            )
            await take_all()
            keep = [connection.info.backend_pid for connection in taken]
        run.began = time.monotonic()
        yield
    finally:
        await asyncio.gather(*(connection.close() for connection in taken))


@asynccontextmanager
async def _disk_full(run: Run) -> AsyncIterator[None]:
    """Let each insert fail as PostgreSQL does without disk space."""
    environment = run.environment
    await environment.sql(
        "CREATE FUNCTION users.chaos() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    try:
        await environment.sql(
            "CREATE TRIGGER chaos BEFORE INSERT ON users.users EXECUTE FUNCTION users.chaos()"
        )
        yield
    finally:
        await environment.sql("DROP FUNCTION users.chaos() CASCADE")


FAULTS = (
    Fault(
        "postgres-killed",
        "PostgreSQL is killed (SIGKILL) and started again",
        _killed,
        codes=UNAVAILABLE,
        reasons=_DATABASE,
        not_serving_within=3.0,
    ),
    Fault(
        "postgres-restarted",
        "PostgreSQL is stopped and started again",
        _restarted,
        codes=UNAVAILABLE,
        reasons=_DATABASE,
        not_serving_within=3.0,
    ),
    Fault(
        "postgres-stopped",
        "PostgreSQL does not respond (SIGSTOP)",
        _stopped,
        codes=TIMES_OUT,
        reasons=_DATABASE,
        not_serving_within=3.0,
    ),
    Fault(
        "database-cut",
        "the connections to PostgreSQL are closed and refused",
        _cut,
        codes=UNAVAILABLE,
        reasons=_DATABASE,
        not_serving_within=3.0,
    ),
    Fault(
        "database-hangs",
        "packets to and from PostgreSQL are lost, and no connection is closed",
        _hanging,
        codes=TIMES_OUT,
        reasons=_DATABASE,
        not_serving_within=3.0,
    ),
    Fault(
        "backends-terminated",
        "three times, every connection is ended by pg_terminate_backend",
        _terminated,
        codes=UNAVAILABLE,
        reasons=_DATABASE,
    ),
    Fault(
        "database-read-only",
        "the database is read-only, as after a failover",
        _read_only,
        codes=UNAVAILABLE,
        not_serving_within=3.0,
        affected=_WRITES,
    ),
    Fault(
        "database-password-changed",
        "the password of the role and its secret file are changed, and all connections are closed",
        _password_changed,
        target=_with_password_file,
        codes=UNAVAILABLE,
        reasons=_DATABASE,
    ),
    Fault(
        "database-out-of-connections",
        "other clients have taken all connections",
        _out_of_connections,
        codes=UNAVAILABLE,
        reasons=_DATABASE,
        not_serving_within=3.0,
    ),
    Fault(
        "database-full",
        "every insert fails with the error of a full disk (53100)",
        _disk_full,
        codes=UNAVAILABLE,
        affected=_WRITES,
    ),
)
