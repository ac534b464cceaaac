"""PgBouncer between the services and PostgreSQL, in transaction mode, is restarted."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gatehouse_testbed.ports import free_port
from gatehouse_testbed.postgres import port_of
from tests.chaos.environment import Environment, Target
from tests.chaos.model import UNAVAILABLE, Fault, Run
from tests.support.eventually import eventually

_CONFIGURATION = """
[databases]
gatehouse = host=127.0.0.1 port={target} dbname=gatehouse
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 10
"""


class PgBouncer:
    """A PgBouncer process that can be started again on its port.

    Args:
        folder: Its configuration.
        port: Where it listens.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.port = port

    async def start(self) -> None:
        """Start it and wait until it listens."""
        # It refuses to run as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        program = _program()
        assert program is not None
        self._process = await asyncio.create_subprocess_exec(
            program,
            *(*user, "-q", str(self._folder / "pgbouncer.ini")),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        await eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def _program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _missing() -> str:
    return "" if _program() else "needs PgBouncer (Debian: apt install pgbouncer)"


@asynccontextmanager
async def _pooled(environment: Environment) -> AsyncIterator[Target]:
    """Run a replica that reaches PostgreSQL through PgBouncer."""
    url = environment.stack.postgres.urls()["users"]
    login = urlsplit(url)
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-pgbouncer-"))
    bouncer = PgBouncer(folder, free_port())
    try:
        users = folder / "users.txt"
        users.touch(mode=0o600)
        users.write_text(f'"{login.username}" "{unquote(login.password or "")}"\n')
        (folder / "pgbouncer.ini").write_text(
            _CONFIGURATION.format(target=port_of(url), port=bouncer.port, folder=folder)
        )
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody").pw_uid
            for path in (folder, users):
                os.chown(path, nobody, -1)
        await bouncer.start()
        pooled = f"postgresql://{login.netloc.rpartition('@')[0]}@127.0.0.1:{bouncer.port}/gatehouse"
        async with environment.replicas(GATEHOUSE_USERS__DATABASE_URL=pooled) as target:
            target.control = bouncer
            yield target
    finally:
        await bouncer.kill()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _restarted(run: Run) -> AsyncIterator[None]:
    bouncer: PgBouncer = run.target.control
    await bouncer.kill()
    try:
        yield
    finally:
        await bouncer.start()


FAULTS = (
    Fault(
        "pgbouncer-restarted",
        "PgBouncer in front of PostgreSQL is killed and started again",
        _restarted,
        target=_pooled,
        codes=UNAVAILABLE,
        reasons=frozenset({"DATABASE_UNAVAILABLE", "DATABASE_BUSY"}),
        not_serving_within=3.0,
        missing=_missing,
    ),
)
