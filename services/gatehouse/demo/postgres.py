"""An embedded PostgreSQL on a Unix socket, where every role, its owner too, must show a password.

What talks to it is imported when it is needed: until then the process of PostgreSQL is starting already.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from gatehouse.demo.errors import DemoError
from gatehouse.demo.processes import end, last_line, outside_environment

DATABASE = "gatehouse"
OWNER = "postgres"
ORDER_SECONDS = 30.0
START_SECONDS = 60.0
_HBA = "local all all scram-sha-256\n"


class Postgres:
    """A PostgreSQL in a process of its own, see postgres_process.

    Args:
        process: The process.
        folder: Where its data is.
        log: Where what goes wrong is written.
    """

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, log: Path) -> None:
        self._process = process
        self._folder = folder
        self._log = log
        self._socket_folder = ""
        self._passwords: dict[str, str] = {}
        self._roles: Mapping[str, str] = {}
        self.version = ""

    @classmethod
    async def launch(cls, folder: Path, log: Path) -> Postgres:
        """Starts the process, and does not wait for it.

        Args:
            folder: Where its data goes; its path must not be longer than some 90 characters.
            log: Where what goes wrong is written.
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
        return cls(process, folder, log)

    async def prepare(self) -> None:
        """Waits until it runs, makes the database, and lets nobody in without a password from then on.

        Raises:
            DemoError: It does not start.
        """
        from gatehouse.storage.migrations import LOGIN_ROLES  # noqa: PLC0415 - see above

        self._roles = LOGIN_ROLES
        uri = await self._line(START_SECONDS)
        if not uri:
            await self.aclose()
            raise DemoError(f"the embedded PostgreSQL did not start: {last_line(self._log)}")
        self._socket_folder = parse_qs(urlsplit(uri).query)["host"][0]
        await asyncio.to_thread(self._prepare, uri)

    def _prepare(self, uri: str) -> None:
        import psycopg  # noqa: PLC0415 - see above
        from psycopg import sql  # noqa: PLC0415

        with psycopg.connect(uri, autocommit=True) as connection:
            owner, word = sql.Identifier(OWNER), sql.Literal(self._password(OWNER))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(owner, word))
            (self._folder / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            number = connection.info.server_version
            self.version = f"{number // 10_000}.{number % 10_000}"

    async def migrate(self) -> list[str]:
        """Brings the database to the newest version, and gives each login role its password."""
        from gatehouse.storage.migrations import migrate  # noqa: PLC0415 - see above

        words = {service: self._password(role) for service, role in self._roles.items()}
        return await asyncio.to_thread(migrate, self._url(OWNER), passwords=words)

    def urls(self) -> Mapping[str, str]:
        """Returns the address for each service, the password of its login role in it."""
        return {service: self._url(role) for service, role in self._roles.items()}

    def _password(self, role: str) -> str:
        return self._passwords.setdefault(role, secrets.token_urlsafe(24))

    def _url(self, role: str) -> str:
        host = quote(self._socket_folder, safe="")
        return f"postgresql://{role}:{self._password(role)}@/{DATABASE}?host={host}"

    async def stop(self) -> None:
        """Stops it; its data stays."""
        await self._order("stop")

    async def start(self) -> None:
        """Starts it again after `stop`."""
        await self._order("start")

    async def _order(self, order: str) -> None:
        writer = self._process.stdin
        assert writer is not None  # noqa: S101 - it was started with pipes
        writer.write(f"{order}\n".encode())
        await writer.drain()
        if await self._line(ORDER_SECONDS) != "done":
            raise DemoError(f"the embedded PostgreSQL did not {order}: {last_line(self._log)}")

    async def _line(self, seconds: float) -> str:
        """Returns the next line of the process; "" when it has ended, or says nothing in time."""
        reader = self._process.stdout
        assert reader is not None  # noqa: S101 - it was started with pipes
        try:
            async with asyncio.timeout(seconds):
                return (await reader.readline()).decode().strip()
        except TimeoutError:
            return ""

    async def aclose(self) -> None:
        """Stops it for good."""
        assert self._process.stdin is not None  # noqa: S101 - it was started with pipes
        self._process.stdin.close()
        await end(self._process, asks=False)
