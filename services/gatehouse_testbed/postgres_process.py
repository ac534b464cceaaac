"""Run an embedded PostgreSQL: prepare it, then migrate, stop and start it on commands from standard input.

It is a separate process because libpq reads what a URL leaves open from the `PG*` variables of its process:
the clients of the owner run here, where the environment is clean.

Each command is a line, each answer one line of JSON. The process exits at the end of standard input, so that
PostgreSQL never outlives its owner, and when PostgreSQL exits.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from threading import Event, Thread

from gatehouse_testbed.errors import TestbedError, require_extra
from gatehouse_testbed.postgres_server import OWNER, PostgresServer

DATABASE = "gatehouse"


@dataclass(frozen=True, slots=True)
class _State:
    """What another start of the same database needs."""

    port: int
    roles: Mapping[str, str]
    """Login role of each service."""
    passwords: Mapping[str, str]
    version: str


class _Runner:
    """Runs a server, and ends this process if it exits."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._stopping = Event()

    def start(self) -> None:
        """Start the server."""
        self._stopping = Event()
        self.server.start()
        Thread(target=self._watch, args=(self._stopping,), daemon=True).start()

    def stop(self) -> None:
        """Stop the server; the data stays."""
        self._stopping.set()
        self.server.stop()

    def _watch(self, stopping: Event) -> None:
        error = self.server.exited()
        if not stopping.is_set():
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(TestbedError.exit_code)


def main(folder: Path) -> None:
    """Run PostgreSQL in `folder`, write its version and the URL of each service, then read commands."""
    require_extra()
    state_file = folder.with_name(f"{folder.name}.json")
    state = _State(**json.loads(state_file.read_bytes())) if state_file.exists() else None
    if state is None:
        # Imported while PostgreSQL starts, which saves 0.3 s. An existing database needs none of it.
        importing = Thread(target=import_module, args=("gatehouse.storage.migrations",))
        importing.start()
        server = PostgresServer(folder, os.environ)
        server.create()
    else:
        server = PostgresServer(folder, os.environ, port=state.port, password=state.passwords[OWNER])
    runner = _Runner(server)
    try:
        runner.start()
        if state is None:
            importing.join()
            state = _new_state(server)
            state_file.touch(mode=0o600)
            state_file.write_text(json.dumps(asdict(state)), encoding="utf-8")
        urls = {role: server.url(DATABASE, role, password) for role, password in state.passwords.items()}
        service_urls = {name: urls[role] for name, role in state.roles.items()}
        _answer({"version": state.version, "owner": urls[OWNER], "urls": service_urls})
        for line in sys.stdin:
            result: object = None
            match line.strip():
                case "migrate":
                    given = {name: state.passwords[role] for name, role in state.roles.items()}
                    result = _migrate(urls[OWNER], given)
                case "stop":
                    runner.stop()
                case "start":
                    runner.start()
            _answer(result)
    finally:
        runner.stop()


def _new_state(server: PostgresServer) -> _State:
    """Create the database and the passwords."""
    from gatehouse.app.services import migration_branches  # noqa: PLC0415 - see `main`

    roles = {branch.name: branch.login_role for branch in migration_branches()}
    passwords = {role: secrets.token_urlsafe(24) for role in roles.values()} | {OWNER: server.password}
    return _State(server.port, roles, passwords, _create_database(server.url()))


def _migrate(url: str, passwords: Mapping[str, str]) -> list[str]:
    from gatehouse.app.services import migration_branches  # noqa: PLC0415 - see `main`
    from gatehouse.storage.migrations import migrate  # noqa: PLC0415

    return migrate(url, migration_branches(), passwords=passwords)


def _create_database(url: str) -> str:
    """Create the database and return the version of PostgreSQL."""
    import psycopg  # noqa: PLC0415 - imported together with the storage
    from psycopg import sql  # noqa: PLC0415

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        number = connection.info.server_version
    return f"{number // 10_000}.{number % 10_000}"


def _answer(result: object) -> None:
    sys.stdout.write(f"{json.dumps(result)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # An exit by SIGTERM cleans up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        main(Path(sys.argv[1]))
    except TestbedError as failed:
        sys.exit(str(failed))
