"""Migrate the database: one alembic branch per service, with its own schema, role and version table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.errors
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql

_LOCK = 0x6A7E_0001
# The login roles can create nothing, neither in the schema that everyone shares nor temporary tables. A role
# belongs to the whole cluster: a migration of another database may create it at the same time.
_PREPARE = """
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    DO $$ BEGIN
      EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role_name}) THEN
        CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$;
    CREATE SCHEMA IF NOT EXISTS {schema};
    GRANT USAGE ON SCHEMA {schema} TO {role};
"""


class MigrationError(Exception):
    """The migration failed; the message is one line that says why and how to fix it."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class MigrationBranch:
    """The migrations of one service.

    Attributes:
        name: Name of the service and of its folder below `migrations/`.
        schema: Schema of its tables and of its version table.
        login_role: Role with which the service logs in.
    """

    name: str
    schema: str
    login_role: str


def migrations_folder() -> Path:
    """Return the folder of the scripts: beside `services/` in a checkout, beside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "migrations", package.parent / "gatehouse_migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise MigrationError(f"the migrations are missing beside {package}; reinstall Gatehouse")


def _config(branch: MigrationBranch, connection: sa.Connection | None = None) -> Config:
    folder = str(migrations_folder()).replace("%", "%%")
    config = Config()
    config.set_main_option("script_location", folder)
    config.set_main_option("version_locations", f"{folder}/{branch.name}")
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["schema"] = branch.schema
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
            f"another process held a lock for {lock_timeout:g} s; retry later, or raise "
            "GATEHOUSE_DATABASE__LOCK_TIMEOUT_SECONDS"
        )
    address = sa.make_url(url)
    if isinstance(original, psycopg.errors.InsufficientPrivilege):
        return (
            f"the role {address.username} lacks a privilege ({original.diag.message_primary}); set "
            "GATEHOUSE_DATABASE__MIGRATE_URL to the URL of the database owner"
        )
    said = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    if said:
        return f"a migration failed and was rolled back: {said}"
    _, refused, reason = str(original).splitlines()[0].partition("FATAL:")
    if refused:
        return f"the database refused the connection:{reason}; check GATEHOUSE_DATABASE__MIGRATE_URL"
    return (
        f"the database at {address.host or 'the socket'} is unreachable; check that it is running, and "
        "GATEHOUSE_DATABASE__MIGRATE_URL"
    )


def migrate(
    url: str,
    branches: Sequence[MigrationBranch],
    *,
    passwords: Mapping[str, str] | None = None,
    lock_timeout: float = 10.0,
    revision: str = "head",
) -> list[str]:
    """Migrate the database.

    Args:
        url: Database URL of a role that can create schemas and roles.
        branches: Branches to migrate, in this order.
        passwords: Passwords to set for the login roles, by branch name.
        lock_timeout: Seconds to wait for another migration, or for a table lock.
        revision: Target revision of each branch; `base` removes everything.

    Returns:
        Names of the applied scripts, such as `users/0001_users`.

    Raises:
        MigrationError: The migration failed.
    """
    with _connect(url, lock_timeout) as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
        connection.commit()
        try:
            applied = []
            for branch in branches:
                applied += _migrate_branch(connection, branch, revision)
            for branch in branches:
                if branch.name in (passwords or {}):
                    _set_password(connection, branch.login_role, (passwords or {})[branch.name])
            connection.commit()
        finally:
            connection.rollback()
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})")
            connection.commit()
    return applied


def _migrate_branch(connection: sa.Connection, branch: MigrationBranch, revision: str) -> list[str]:
    before = _current(connection, branch)
    if revision == "base":
        command.downgrade(_config(branch, connection), revision)
        _execute(
            connection, sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(branch.schema))
        )
        connection.commit()
        return _between(branch, None, before)
    _execute(
        connection,
        sql.SQL(_PREPARE).format(
            role=sql.Identifier(branch.login_role),
            role_name=sql.Literal(branch.login_role),
            schema=sql.Identifier(branch.schema),
        ),
    )
    connection.commit()
    command.upgrade(_config(branch, connection), revision)
    # `gatehouse doctor` compares the version as the login role.
    _execute(
        connection,
        sql.SQL("GRANT SELECT ON {}.alembic_version TO {}").format(
            sql.Identifier(branch.schema), sql.Identifier(branch.login_role)
        ),
    )
    connection.commit()
    return _between(branch, before, _current(connection, branch))


def check_migrations(
    url: str, branches: Sequence[MigrationBranch], *, lock_timeout: float = 10.0
) -> list[str]:
    """Return the names of the scripts that have not been applied.

    Raises:
        MigrationError: The database is unavailable.
    """
    with _connect(url, lock_timeout) as connection:
        return [name for branch in branches for name in pending_migrations(connection, branch)]


def pending_migrations(connection: sa.Connection, branch: MigrationBranch) -> list[str]:
    """Return the names of the scripts of one branch that have not been applied.

    Args:
        connection: A connection of the owner or of the branch's login role.
        branch: The branch.

    Raises:
        MigrationError: The database is at a revision of a newer version.
    """
    head = ScriptDirectory.from_config(_config(branch)).get_current_head()
    return _between(branch, _current(connection, branch), head)


def _current(connection: sa.Connection, branch: MigrationBranch) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": branch.schema})
    revision = context.get_current_revision()
    connection.commit()
    if revision is not None and revision not in _revisions(branch):
        raise MigrationError(
            f"{branch.name}: the database is at revision {revision}, which this version of Gatehouse "
            "does not know; use the version that created it, or a newer one"
        )
    return revision


def _revisions(branch: MigrationBranch) -> list[str]:
    """Return all revisions of a branch, oldest first."""
    scripts = ScriptDirectory.from_config(_config(branch)).walk_revisions()
    return [script.revision for script in reversed(list(scripts))]


def _between(branch: MigrationBranch, low: str | None, high: str | None) -> list[str]:
    """Return the names of the scripts after `low` up to `high`; None is before the first script."""
    revisions = _revisions(branch)
    first = revisions.index(low) + 1 if low in revisions else 0
    last = revisions.index(high) + 1 if high in revisions else 0
    return [f"{branch.name}/{revision}" for revision in revisions[first:last]]


def _execute(connection: sa.Connection, statement: sql.Composable) -> None:
    """Execute a composed statement through SQLAlchemy, so that it tracks the transaction."""
    connection.exec_driver_sql(statement.as_string(_driver(connection)).replace("%", "%%"))


def _driver(connection: sa.Connection) -> psycopg.Connection[object]:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101 - the only driver here
    return raw


def _set_password(connection: sa.Connection, role: str, password: str) -> None:
    # As a SCRAM verifier (RFC 5803): the password itself reaches neither the network nor the server's log.
    verifier = _driver(connection).pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(
        sql.Identifier(role), sql.Literal(verifier.decode())
    )
    _execute(connection, statement)
