"""The database of the test bed, which a test makes fail, and a reset restores in milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from gatehouse.app.services import migration_branches
from gatehouse_testbed.bed.database_cache import DatabaseCache, state_file
from gatehouse_testbed.bed.faults import DatabaseFault
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.postgres import Postgres, port_of, with_port

SNAPSHOT = "testbed_snapshot"
_TABLES = """
SELECT schemaname, tablename FROM pg_tables
WHERE schemaname = ANY(%s) AND tablename NOT LIKE 'alembic%%' ORDER BY 1, 2
"""
# Tables of work that a service has begun, such as a call of the issuer, and that it may end after a reset.
_LEASED = """
SELECT table_schema, table_name FROM information_schema.columns
WHERE table_schema = ANY(%s) AND column_name = 'lease_end'
"""
# What has failed may keep its lease.
_LEASE_SECONDS = 1.0
# Nothing uses them; without them, a copy has a third of the files.
_OTHER_DATABASES = ("postgres", "template1", "template0")


class BedDatabase:
    """PostgreSQL with the migrated database, which can be reset and made to fail.

    Args:
        postgres: The running server.
        schemas: Schemas of the services.
    """

    def __init__(self, postgres: Postgres, schemas: Sequence[str]) -> None:
        self._postgres = postgres
        self._schemas = list(schemas)
        self._connection: psycopg.AsyncConnection | None = None
        self._restore = self._find_work = sql.Composed([])

    @property
    def port(self) -> int:
        """Port of the server."""
        return port_of(self._postgres.owner_url)

    def url(self, service: str, port: int) -> str:
        """Return the database URL of a service by another port, with the password of its login role."""
        return with_port(self._postgres.urls()[service], port)

    async def aclose(self) -> None:
        """Close the connection that resets the database."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _open(self) -> psycopg.AsyncConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._postgres.owner_url, autocommit=True
            )
        return self._connection

    async def take_snapshot(self) -> None:
        """Keep the content of all tables for `reset`."""
        connection = await self._open()
        tables = await (await connection.execute(_TABLES, [self._schemas])).fetchall()
        statements: list[sql.Composable] = [sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SNAPSHOT))]
        # The owner may skip triggers and foreign keys, so that the order of the tables does not matter.
        restore: list[sql.Composable] = [sql.SQL("SET LOCAL session_replication_role = replica")]
        for schema, table in tables:
            copy = sql.Identifier(SNAPSHOT, f"{schema}.{table}")
            original = sql.Identifier(schema, table)
            statements.append(sql.SQL("CREATE TABLE {} AS TABLE {}").format(copy, original))
            restore.append(sql.SQL("DELETE FROM {}").format(original))
            restore.append(sql.SQL("INSERT INTO {} OVERRIDING SYSTEM VALUE TABLE {}").format(original, copy))
        await connection.execute(sql.SQL("; ").join(statements))
        self._restore = sql.SQL("; ").join(restore)
        leased = await (await connection.execute(_LEASED, [self._schemas])).fetchall()
        queries = (
            sql.SQL(
                "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; "
                "SELECT 1 FROM {table} WHERE lease_end > now() LIMIT 1; "
            ).format(table=sql.Identifier(*name))
            for name in leased
        )
        self._find_work = sql.Composed([*queries])

    async def reset(self) -> None:
        """Restore the content of all tables; start the server again if something else has ended it.

        Raises:
            TestbedError: A call holds a lock, or the server does not start.
        """
        if not await self._is_running():
            await self._postgres.restart()
        try:
            deadline = time.monotonic() + _LEASE_SECONDS
            while not await self._restore_content(force=time.monotonic() > deadline):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        except psycopg.Error as error:
            await self.aclose()
            reason = str(error).partition("\n")[0]
            raise TestbedError(f"the tables cannot be reset ({reason}); end all calls, then retry") from None

    async def _restore_content(self, *, force: bool) -> bool:
        """Restore the content of all tables; return False, and do nothing, while work is running.

        Args:
            force: Whether to restore it nevertheless.
        """
        connection = await self._open()
        async with connection.transaction():
            found = await connection.execute(sql.SQL("SET LOCAL lock_timeout = '2s'; ") + self._find_work)
            is_running = any([result.rowcount > 0 async for result in found.results()])
            if is_running and not force:
                return False
            await connection.execute(self._restore)
        return True

    async def _is_running(self) -> bool:
        for _ in range(2):  # the first attempt finds out that the connection has ended
            with contextlib.suppress(psycopg.Error):
                await (await self._open()).execute("SELECT 1")
                return True
        return False

    async def apply(self, fault: DatabaseFault) -> None:
        """Stop the server, or suspend its processes.

        Raises:
            TestbedError: Something else has ended it.
        """
        if not await self._is_running():
            raise TestbedError("PostgreSQL has ended; a reset of the test bed starts it again")
        if fault.state == "down":
            await self.aclose()
            await self._postgres.stop()
        else:
            self._signal(signal.SIGSTOP)

    async def lift(self, fault: DatabaseFault) -> None:
        """Undo a fault."""
        if fault.state == "down":
            await self._postgres.start()
        else:
            # Something else may have ended it: then a reset starts it again.
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> Iterable[psutil.Process]:
        file = self._postgres.folder / "postmaster.pid"
        server = psutil.Process(int(file.read_text(encoding="utf-8").split()[0]))
        return [server, *server.children(recursive=True)]


@asynccontextmanager
async def run_database(folder: Path, log: Path, cache: DatabaseCache | None) -> AsyncIterator[BedDatabase]:
    """Run PostgreSQL with a migrated database until the context ends.

    Args:
        folder: For its data.
        log: For its output.
        cache: Keeps a migrated database for the next run; None keeps none.

    Raises:
        TestbedError: It does not start.
    """
    postgres = None
    if cache is not None and cache.copy_to(folder):
        with contextlib.suppress(TestbedError):
            postgres = await _start(folder, log)
    is_new = postgres is None
    if postgres is None:
        shutil.rmtree(folder, ignore_errors=True)
        state_file(folder).unlink(missing_ok=True)
        postgres = await _start(folder, log)
    try:
        if is_new:
            await postgres.migrate()
            if cache is not None:
                await _drop_other_databases(postgres.owner_url)
                await postgres.stop()
                cache.keep(folder)
                await postgres.start()
        database = BedDatabase(postgres, [branch.schema for branch in migration_branches()])
        try:
            yield database
        finally:
            await database.aclose()
    finally:
        await postgres.aclose()


async def _drop_other_databases(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("UPDATE pg_database SET datistemplate = false")
        for name in _OTHER_DATABASES:
            await connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


async def _start(folder: Path, log: Path) -> Postgres:
    postgres = await Postgres.launch(folder, log)
    try:
        # What comes next is imported while PostgreSQL starts, which saves half a second.
        import_module("gatehouse_testbed.bed.system")
        await postgres.prepare()
    except BaseException:
        await postgres.aclose()
        raise
    return postgres
