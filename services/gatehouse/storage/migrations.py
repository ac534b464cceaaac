"""Brings the schema to the newest version: one line of history, under an advisory lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import psycopg.errors
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql

LOGIN_ROLES = {"users": "gatehouse_users", "admin": "gatehouse_admin", "public": "gatehouse_public"}
_LOCK = 0x6A7E_0001


class MigrationError(Exception):
    """The schema could not be brought to the newest version; one line says why and how to mend it."""


def migrations_folder() -> Path:
    """Returns the folder of the scripts: beside `services/` in a checkout, beside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "migrations", package.parent / "gatehouse_migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise MigrationError(f"the migrations are missing beside {package}; install Gatehouse anew")


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connect(url: str, lock_timeout: float) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        poolclass=sa.NullPool,
        hide_parameters=True,
        connect_args={"connect_timeout": 5},
    )
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = {round(lock_timeout * 1000)}")
            connection.commit()
            yield connection
    except sa.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise MigrationError(
                f"another process held a lock for {lock_timeout:g} s; wait for it, or raise "
                "GATEHOUSE_DATABASE__LOCK_TIMEOUT_SECONDS"
            ) from None
        host = sa.make_url(url).host or "the socket"
        raise MigrationError(
            f"the database at {host} cannot be reached; check that it runs, and "
            "GATEHOUSE_DATABASE__MIGRATE_URL"
        ) from None
    finally:
        engine.dispose()


def migrate(
    url: str,
    *,
    passwords: Mapping[str, str] | None = None,
    lock_timeout: float = 10.0,
    revision: str = "head",
) -> list[str]:
    """Runs what is missing and returns the names of what ran.

    Args:
        url: Of a role that may create schemas and roles.
        passwords: Passwords of the login roles, by service; a role that is not named keeps its own.
        lock_timeout: Seconds to wait for another migration, or for a lock on a table.
        revision: Where to go; `base` takes everything back.

    Raises:
        MigrationError: It cannot be done now.
    """
    with _connect(url, lock_timeout) as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
        connection.commit()
        try:
            before = _current(connection)
            connection.commit()
            config = _config(connection)
            if revision == "base":
                command.downgrade(config, revision)
            else:
                command.upgrade(config, revision)
            for service, password in (passwords or {}).items():
                _set_password(connection, LOGIN_ROLES[service], password)
            connection.commit()
            after = _current(connection)
        finally:
            connection.rollback()
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})")
            connection.commit()
    return _between(before, after)


def check_migrations(url: str, *, lock_timeout: float = 10.0) -> list[str]:
    """Returns what has not been run yet.

    Raises:
        MigrationError: The database cannot be reached.
    """
    with _connect(url, lock_timeout) as connection:
        current = _current(connection)
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return _between(current, head)


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _between(before: str | None, after: str | None) -> list[str]:
    script = ScriptDirectory.from_config(_config())
    known = [r.revision for r in reversed(list(script.walk_revisions()))]
    low = known.index(before) + 1 if before in known else 0
    high = known.index(after) + 1 if after in known else 0
    return known[min(low, high) : max(low, high)]


def _set_password(connection: sa.Connection, role: str, password: str) -> None:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101 - the only driver here
    raw.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
