"""An embedded PostgreSQL on a Unix socket, where every role, its owner too, must show a password."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from psycopg import sql

from gatehouse.demo.errors import DemoError
from gatehouse.demo.processes import end, last_line, outside_environment
from gatehouse.storage import LOGIN_ROLES, migrate

DATABASE = "gatehouse"
ORDER_SECONDS = 30.0
_HBA = "local all all scram-sha-256\n"


class Postgres:
    """A PostgreSQL that runs.

    Args:
        process: What runs it, see postgres_process.
        log: Of that process.
        uri: Of its owner, who needs no password yet.
        folder: Where its data is.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path, uri: str, folder: Path) -> None:
        self._process = process
        self._log = log
        self._uri = sa.make_url(uri)
        self._folder = folder
        self._passwords = {name: secrets.token_urlsafe(24) for name in ("postgres", *LOGIN_ROLES.values())}
        self.version = ""

    async def prepare(self) -> None:
        """Makes the database, and lets nobody in without a password from now on."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        with psycopg.connect(self._uri.render_as_string(), autocommit=True) as connection:
            word = sql.Literal(self._passwords["postgres"])
            connection.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(word))
            (self._folder / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            number = connection.info.server_version
            self.version = f"{number // 10_000}.{number % 10_000}"

    async def migrate(self) -> list[str]:
        """Brings the database to the newest version, and gives each login role its password."""
        words = {service: self._passwords[role] for service, role in LOGIN_ROLES.items()}
        return await asyncio.to_thread(migrate, self._url("postgres"), passwords=words)

    def urls(self) -> Mapping[str, str]:
        """Returns the address for each service, the password of its login role in it."""
        return {service: self._url(role) for service, role in LOGIN_ROLES.items()}

    def _url(self, role: str) -> str:
        url = self._uri.set(username=role, password=self._passwords[role], database=DATABASE)
        return url.render_as_string(hide_password=False)

    async def stop(self) -> None:
        """Stops it; its data stays."""
        await self._order("stop")

    async def start(self) -> None:
        """Starts it again after `stop`."""
        await self._order("start")

    async def _order(self, order: str) -> None:
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None  # noqa: S101 - it was started with pipes
        assert writer is not None  # noqa: S101 - likewise
        writer.write(f"{order}\n".encode())
        await writer.drain()
        async with asyncio.timeout(ORDER_SECONDS):
            answer = await reader.readline()
        if answer != b"done\n":
            raise DemoError(f"the embedded PostgreSQL did not {order}: {last_line(self._log)}")


@asynccontextmanager
async def run_postgres(folder: Path, log: Path) -> AsyncIterator[Postgres]:
    """Runs a PostgreSQL until the context ends.

    Args:
        folder: Where its data goes; its path must not be longer than some 90 characters.
        log: Where what goes wrong is written.

    Raises:
        DemoError: It cannot be started.
    """
    runtime = folder.with_name(f"{folder.name}-run")
    runtime.mkdir(mode=0o700)
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gatehouse.demo.postgres_process",
            str(folder),
            # The library's lock and sockets, which are this one's and nobody else's.
            env=outside_environment() | {"XDG_RUNTIME_DIR": str(runtime)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stream,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None  # noqa: S101 - it was started with pipes
        uri = (await process.stdout.readline()).decode().strip()
        if not uri:
            await process.wait()
            raise DemoError(f"the embedded PostgreSQL did not start: {last_line(log)}")
        postgres = Postgres(process, log, uri, folder)
        await postgres.prepare()
        yield postgres
    finally:
        assert process.stdin is not None  # noqa: S101 - likewise
        process.stdin.close()
        await end(process, asks=False)
