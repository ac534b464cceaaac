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
    except sa.exc.DBAPIError as error:
        raise MigrationError(_why(error, url, lock_timeout)) from None
    finally:
        engine.dispose()


def _why(error: sa.exc.DBAPIError, url: str, lock_timeout: float) -> str:
    original = error.orig
    if isinstance(original, psycopg.errors.LockNotAvailable):
        return (
            f"another process held a lock for {lock_timeout:g} s; wait for it, or raise "
            "GATEHOUSE_DATABASE__LOCK_TIMEOUT_SECONDS"
        )
    address = sa.make_url(url)
    if isinstance(original, psycopg.errors.InsufficientPrivilege):
        return (
            f"the role {address.username} may not do this ({original.diag.message_primary}); give the "
            "address of the database's owner in GATEHOUSE_DATABASE__MIGRATE_URL"
        )
    said = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    if said:
        return f"a migration failed and nothing of it was kept: {said}"
    _, refused, reason = str(original).splitlines()[0].partition("FATAL:")
    if refused:
        return f"the database refused the connection:{reason}; check GATEHOUSE_DATABASE__MIGRATE_URL"
    return (
        f"the database at {address.host or 'the socket'} cannot be reached; check that it runs, and "
        "GATEHOUSE_DATABASE__MIGRATE_URL"
    )


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
            before = _known(_current(connection))
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
        current = _known(_current(connection))
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return _between(current, head)


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _known(revision: str | None) -> str | None:
    known = {r.revision for r in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise MigrationError(
            f"the database is at version {revision}, which this Gatehouse does not know; use the newer one"
        )
    return revision


def _between(before: str | None, after: str | None) -> list[str]:
    script = ScriptDirectory.from_config(_config())
    known = [r.revision for r in reversed(list(script.walk_revisions()))]
    low = known.index(before) + 1 if before in known else 0
    high = known.index(after) + 1 if after in known else 0
    return known[min(low, high) : max(low, high)]


def _set_password(connection: sa.Connection, role: str, password: str) -> None:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101 - the only driver here
    # As a SCRAM verifier (RFC 5803): the password itself reaches neither the wire nor the server's log.
    verifier = raw.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    order = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier))
    # Through SQLAlchemy, whose commit knows of nothing else.
    connection.exec_driver_sql(order.as_string(raw).replace("%", "%%"))
