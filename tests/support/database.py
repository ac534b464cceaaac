"""PostgreSQL for tests: one server per test process, one database per module."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from gatehouse.app.services import SERVICES, migration_branches
from gatehouse.storage.migrations import migrate
from gatehouse_testbed.accounts import find_account, temporary_folder
from gatehouse_testbed.postgres import with_port
from gatehouse_testbed.postgres_server import OWNER, PostgresServer
from tests.support.pgbouncer import run_pgbouncer
from tests.support.toolchains import Missing

LOGIN_ROLES = {name: spec.login_role() for name, spec in SERVICES.items()}


TRUST = "host all all 127.0.0.1/32 trust\n"


@contextmanager
def run_postgres(rules: str = TRUST, **settings: str) -> Iterator[PostgresServer]:
    """Run a server of its own; `rules` are the content of pg_hba.conf."""
    folder = Path(tempfile.mkdtemp(prefix="gh-pg-", dir=temporary_folder(find_account())))
    folder.chmod(0o711)  # as root, another account has to reach its data
    server = PostgresServer(folder / "data", os.environ, rules=rules, settings=settings)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def owner_url(server: PostgresServer, database: str = OWNER) -> str:
    """Return the URL of the owner of a server that trusts it, without a password."""
    return f"postgresql://{OWNER}@127.0.0.1:{server.port}/{database}?sslmode=disable"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of this test process."""
    with run_postgres(synchronous_commit="off") as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> str:
    """Create a migrated template database, and return the URL of the server."""
    uri = owner_url(postgres)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE gatehouse_template")
    migrate(named(uri, "gatehouse_template"), migration_branches())
    return uri


@pytest.fixture(scope="session")
def pooler_port(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[int | None]:
    """Port of a PgBouncer that the services connect to, with `--pooler pgbouncer`; else None."""
    if request.config.getoption("--pooler", default=None) != "pgbouncer":
        yield None
        return
    try:
        with run_pgbouncer(postgres.port, dict.fromkeys(LOGIN_ROLES.values(), "")) as bouncer:
            yield bouncer.port
    except Missing as error:
        pytest.exit(f"--pooler pgbouncer: {error}", returncode=1)


_numbers = itertools.count()


def named(uri: str, database: str, role: str | None = None, password: str | None = None) -> str:
    """Return `uri` with another database, role and password."""
    url = sa.make_url(uri).set(database=database)
    if role is not None:
        url = url.set(username=role, password=password)
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def database_urls(template: str, pooler_port: int | None) -> Iterator[dict[str, str]]:
    """Create a migrated database, and return its URLs by service; that of its owner is `owner`."""
    name = f"gatehouse_{next(_numbers)}"
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE gatehouse_template")
    urls = {service: named(template, name, role) for service, role in LOGIN_ROLES.items()}
    if pooler_port is not None:
        urls = {service: with_port(url, pooler_port) for service, url in urls.items()}
    yield {"owner": named(template, name)} | urls
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
