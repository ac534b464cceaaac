"""A real PgBouncer in transaction mode, in front of a PostgreSQL on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gatehouse_testbed.ports import free_port
from tests.support.toolchains import find_tool

START_SECONDS = 30.0
_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={target}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {auth_type}
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 10
"""


class PgBouncer:
    """A process that can be started again on its port.

    Args:
        folder: Its configuration.
        port: Where it listens.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            Missing: It is not installed.
        """
        # It refuses to run as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        with (self._folder / "pgbouncer.log").open("wb") as log:
            self._process = subprocess.Popen(
                [find_pgbouncer(), *user, "-q", str(self._folder / "pgbouncer.ini")],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            assert time.monotonic() < deadline, (self._folder / "pgbouncer.log").read_text()
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def find_pgbouncer() -> str:
    """Return the path of the program.

    Raises:
        Missing: It is not installed.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return find_tool("pgbouncer", "PgBouncer (Debian: apt install pgbouncer)", path=path)


@contextmanager
def run_pgbouncer(target: int, logins: Mapping[str, str]) -> Iterator[PgBouncer]:
    """Run PgBouncer until the context ends.

    Args:
        target: Port of PostgreSQL.
        logins: Password of each role; "" if PostgreSQL asks for none.
    """
    folder = Path(tempfile.mkdtemp(prefix="gatehouse-pgbouncer-"))
    bouncer = PgBouncer(folder, free_port())
    try:
        users = folder / "users.txt"
        users.touch(mode=0o600)
        users.write_text("".join(f'"{role}" "{word}"\n' for role, word in logins.items()))
        auth_type = "scram-sha-256" if any(logins.values()) else "trust"
        (folder / "pgbouncer.ini").write_text(
            _CONFIGURATION.format(target=target, port=bouncer.port, auth_type=auth_type, folder=folder)
        )
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody").pw_uid
            for path in (folder, users):
                os.chown(path, nobody, -1)
        bouncer.start()
        yield bouncer
    finally:
        bouncer.kill()
        shutil.rmtree(folder, ignore_errors=True)
