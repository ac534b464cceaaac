"""The embedded PostgreSQL in an environment with variables for another server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from gatehouse_testbed.postgres import Postgres
from gatehouse_testbed.postgres_process import embedded_environment
from tests.support.database import LOGIN_ROLES
from tests.support.foreign import ADDRESS, ForeignServer
from tests.testbed.test_demo import kept_running

ROOT = Path(__file__).resolve().parents[2]
# Not installed on any machine.
LOCALE = "xx_XX.UTF-8"


@asynccontextmanager
async def launched(folder: Path, variables: dict[str, str]) -> AsyncIterator[Postgres]:
    """The PostgreSQL of the demo, started as the demo does with `variables` in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        database = await Postgres.launch(folder / "pg", folder / "log")
        try:
            await database.prepare()
            await database.migrate()
        except BaseException:
            await database.aclose()
            raise
    try:
        yield database
    finally:
        await database.aclose()


def service_file(folder: Path, server: ForeignServer) -> dict[str, str]:
    """Variables that name `server` as a service, in a file."""
    file = folder / "services.conf"
    file.write_text(f"[theirs]\nhostaddr={ADDRESS}\nport={server.port}\nuser=postgres\n")
    return {"PGSERVICE": "theirs", "PGSERVICEFILE": str(file)}


def variables_of(name: str, folder: Path, server: ForeignServer) -> dict[str, str]:
    """Return the variables of a shell that uses another server."""
    return {
        "address": server.variables,
        "service": service_file(folder, server),
        "host": {"PGHOST": ADDRESS, "PGPORT": str(server.port), "PGUSER": "me", "PGDATABASE": "mine"},
        "port": {"PGPORT": str(server.port)},
        "options": {"PGOPTIONS": "-c default_transaction_read_only=on"},
        "session": {"PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "gss", "PGCONNECT_TIMEOUT": "never"},
        "data": {"PGDATA": str(folder), "PGPASSFILE": str(folder), "PGPASSWORD": "theirs"},
        "locale": {"LC_ALL": LOCALE, "LANG": LOCALE},
        "categories": {"LC_MESSAGES": LOCALE, "LC_COLLATE": LOCALE, "LANGUAGE": "xx"},
    }[name]


@pytest.mark.parametrize(
    "name", ["address", "service", "host", "port", "options", "session", "data", "locale", "categories"]
)
async def test_variables_of_another_postgres_reach_neither_this_one_nor_that_one(
    name: str, foreign_server: ForeignServer, tmp_path: Path, short_folder: Path
) -> None:
    before = foreign_server.state()
    async with launched(short_folder, variables_of(name, tmp_path, foreign_server)) as database:
        assert foreign_server.state() == before
        for service, url in database.urls().items():
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT current_user").fetchone() == (LOGIN_ROLES[service],)
    assert set(database.urls()) == set(LOGIN_ROLES)


async def test_demo_touches_no_other_server(foreign_server: ForeignServer, short_folder: Path) -> None:
    before = foreign_server.state()
    async with kept_running(short_folder, **foreign_server.variables) as (demo, _):
        children = psutil.Process(demo.pid).children(recursive=True)
        inherited = {name for child in children for name in child.environ() if name.startswith("PG")}
    assert foreign_server.state() == before
    assert len(children) >= 5
    assert inherited == set()


async def test_tests_touch_no_other_server(foreign_server: ForeignServer) -> None:
    before = foreign_server.state()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-cov"),
        "tests/storage/test_migrations.py::test_login_roles_get_the_passwords_that_are_given",
        cwd=ROOT,
        env=os.environ | foreign_server.variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    assert foreign_server.state() == before


def test_clean_environment_keeps_everything_else() -> None:
    others = {"PATH": "/bin", "HOME": "/h", "TZ": "UTC", "GATEHOUSE_LOG__FORMAT": "json", "MYPG": "x"}
    removed = {"PGHOST": "h", "PGANYTHING": "", "LC_TIME": "C", "LANG": "C", "LANGUAGE": "de"}
    assert embedded_environment(others | removed) == others | {"LC_ALL": "C.UTF-8"}
