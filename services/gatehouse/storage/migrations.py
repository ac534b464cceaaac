"""Migrate the database: one alembic branch per service, with its own schema, role and version table."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg.errors
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql

from gatehouse.settings import database_parameters
from gatehouse.storage.branches import MigrationBranch, MigrationError, migrations_folder
from gatehouse.storage.connecting import connection_parameters
from gatehouse.storage.errors import refused_connection

_CONNECT_SECONDS = 5.0
_LOCK = 0x6A7E_0001
_POLL_SECONDS = 0.1
# alembic keeps the migration that runs in module globals.
_one_at_a_time = threading.Lock()
# The login roles can create nothing, neither in the schema that everyone shares nor temporary tables.
_PREPARE = """
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    DO $$ BEGIN
      EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role_name}) THEN
        CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
      END IF;
    END $$;
    CREATE SCHEMA IF NOT EXISTS {schema};
    GRANT USAGE ON SCHEMA {schema} TO {role};
"""
# If the prefix of the roles was changed, the new role replaces the one that owns the privileges.
_REPLACE_ROLE = """
    DO $$ DECLARE
      old text := coalesce(obj_description({schema_name}::regnamespace), {first_role});
      privilege record;
    BEGIN
      IF old <> {role_name} AND EXISTS (SELECT FROM pg_roles WHERE rolname = old) THEN
        FOR privilege IN SELECT * FROM information_schema.role_table_grants
          WHERE table_schema = {schema_name} AND grantee = old
        LOOP
          EXECUTE format('GRANT %s ON {schema}.%I TO {role}', privilege.privilege_type, privilege.table_name);
        END LOOP;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM %I', old);
        EXECUTE format('REVOKE ALL ON SCHEMA {schema} FROM %I', old);
      END IF;
    END $$;
    COMMENT ON SCHEMA {schema} IS {role_name};
"""
# A role belongs to the whole server, not to one database. This is where else it has privileges.
_OTHER_DATABASES = """
    SELECT string_agg(DISTINCT datname, ', ') FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid
    WHERE refclassid = 'pg_authid'::regclass AND datname <> current_database()
      AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = {role_name})
"""
# What one migration gets when one of another database changes the same role at that moment.
_ROLE_CONFLICTS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateObject,
    psycopg.errors.InternalError_,  # "tuple concurrently updated"
)
_ROLE_ATTEMPTS = 20


def _config(branch: MigrationBranch, connection: sa.Connection | None = None) -> Config:
    folder = str(migrations_folder()).replace("%", "%%")
    config = Config()
    config.set_main_option("script_location", folder)
    config.set_main_option("version_locations", f"{folder}/{branch.name}")
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["schema"] = branch.schema
    config.attributes["login_role"] = branch.login_role
    return config


@contextmanager
def _connect(url: str, lock_timeout: float) -> Iterator[sa.Connection]:
    """Connect; each transaction waits for a lock for `lock_timeout` seconds.

    Works behind a pooler such as PgBouncer too, where a session has no settings of its own.
    """
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: _open(url),
        poolclass=sa.NullPool,
        hide_parameters=True,
        # Whatever the database's default: an idle transaction must not keep a snapshot, see _alone.
        isolation_level="READ COMMITTED",
    )

    def limit_waiting(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(lock_timeout * 1000)}")

    sa.event.listen(engine, "begin", limit_waiting)

    try:
        with engine.connect() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise MigrationError(_why(error, url, lock_timeout)) from None
    finally:
        engine.dispose()


def _open(url: str) -> psycopg.Connection[Any]:
    parameters = connection_parameters(url, _CONNECT_SECONDS)
    try:
        # Prepared statements do not work behind a pooler.
        return psycopg.connect(**parameters, prepare_threshold=None)
    except (psycopg.Error, OSError, ValueError) as error:
        refused = refused_connection(error, parameters.get("password", ""))
        raise MigrationError(f"{refused.detail}; check GATEHOUSE_DATABASE__MIGRATE_URL") from None


@contextmanager
def _alone(url: str, lock_timeout: float) -> Iterator[None]:
    """Wait for other migrations of this database, on a connection of its own.

    The lock belongs to a transaction, so that it holds behind a pooler as well. It is polled, because a
    statement that waits has a snapshot, and CREATE INDEX CONCURRENTLY of the other migration waits for that.
    """
    deadline = time.monotonic() + lock_timeout
    with _one_at_a_time, _connect(url, lock_timeout) as connection:
        while not connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_LOCK})").scalar_one():
            connection.rollback()
            if time.monotonic() >= deadline:
                raise MigrationError(_locked(lock_timeout))
            time.sleep(min(_POLL_SECONDS, lock_timeout))
        yield
        connection.rollback()


def _locked(lock_timeout: float) -> str:
    return (
        f"another process held a lock for {lock_timeout:g} s; retry later, or raise "
        "GATEHOUSE_DATABASE__LOCK_TIMEOUT_SECONDS"
    )


def _why(error: sa.exc.DBAPIError, url: str, lock_timeout: float) -> str:
    original = error.orig
    if isinstance(original, psycopg.errors.LockNotAvailable):
        return _locked(lock_timeout)
    if isinstance(original, psycopg.errors.InsufficientPrivilege):
        role = database_parameters(url).get("user", "of the migration")
        return (
            f"the role {role} lacks a privilege ({original.diag.message_primary}); set "
            "GATEHOUSE_DATABASE__MIGRATE_URL to the URL of the database owner"
        )
    said = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    return f"a migration failed and was rolled back: {said or 'the connection was lost; run it again'}"


def migrate(
    url: str,
    branches: Sequence[MigrationBranch],
    *,
    passwords: Mapping[str, str] | None = None,
    lock_timeout: float = 10.0,
    revision: str = "head",
) -> list[str]:
    """Migrate the database. One that a newer version has migrated keeps its tables, see docs/upgrades.md.

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
    applied = []
    with _alone(url, lock_timeout), _connect(url, lock_timeout) as connection:
        for branch in branches:
            password = (passwords or {}).get(branch.name)
            applied += _migrate_branch(connection, branch, revision, password)
    return applied


def _migrate_branch(
    connection: sa.Connection, branch: MigrationBranch, revision: str, password: str | None
) -> list[str]:
    before = _current(connection, branch)
    newer = _is_newer(branch, before)
    if newer and revision == "base":
        raise MigrationError(
            f"{branch.name}: the database is at revision {before} of a newer version; use that version"
        )
    if revision == "base":
        command.downgrade(_config(branch, connection), revision)
        _execute(
            connection, sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(branch.schema))
        )
        connection.commit()
        return _between(branch, None, before)
    _retry_role_conflicts(connection, lambda: _prepare(connection, branch, password))
    if newer:
        return []
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


def _prepare(connection: sa.Connection, branch: MigrationBranch, password: str | None) -> None:
    """Create the schema and the login role, and set its password, in one transaction."""
    names = {
        "role": sql.Identifier(branch.login_role),
        "role_name": sql.Literal(branch.login_role),
        "schema": sql.Identifier(branch.schema),
        "schema_name": sql.Literal(branch.schema),
        "first_role": sql.Literal(f"gatehouse_{branch.name}"),
    }
    _execute(connection, sql.SQL(_PREPARE).format(**names))
    _execute(connection, sql.SQL(_REPLACE_ROLE).format(**names))
    if password is not None:
        others = _execute(connection, sql.SQL(_OTHER_DATABASES).format(**names)).scalar_one()
        if others is not None:
            raise MigrationError(
                f"the login role {branch.login_role} belongs to the installation in the database {others}, "
                "which a new password would lock out; set GATEHOUSE_DATABASE__ROLE_PREFIX to another prefix"
            )
        _set_password(connection, branch.login_role, password)


def _retry_role_conflicts(connection: sa.Connection, change: Callable[[], None]) -> None:
    """Run and commit a change of a role again if a migration of another database changes it too."""
    for attempt in range(1, _ROLE_ATTEMPTS + 1):
        try:
            change()
            connection.commit()
        except sa.exc.DBAPIError as error:
            connection.rollback()
            if attempt == _ROLE_ATTEMPTS or not isinstance(error.orig, _ROLE_CONFLICTS):
                raise
            time.sleep(0.05 * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        else:
            return


def check_migrations(
    url: str, branches: Sequence[MigrationBranch], *, lock_timeout: float = 10.0
) -> list[str]:
    """Return the names of the scripts that have not been applied.

    Raises:
        MigrationError: The database is unavailable.
    """
    with _connect(url, lock_timeout) as connection:
        return [name for branch in branches for name in pending_migrations(connection, branch)]


def newer_migrations(
    url: str, branches: Sequence[MigrationBranch], *, lock_timeout: float = 10.0
) -> list[str]:
    """Return the names of the revisions of the database that a newer version of the code has applied.

    Raises:
        MigrationError: The database is unavailable.
    """
    with _connect(url, lock_timeout) as connection:
        return [name for branch in branches if (name := newer_migration(connection, branch))]


def pending_migrations(connection: sa.Connection, branch: MigrationBranch) -> list[str]:
    """Return the names of the scripts of one branch that have not been applied.

    Args:
        connection: A connection of the owner or of the branch's login role.
        branch: The branch.
    """
    current = _current(connection, branch)
    if _is_newer(branch, current):
        return []
    return _between(branch, current, ScriptDirectory.from_config(_config(branch)).get_current_head())


def newer_migration(connection: sa.Connection, branch: MigrationBranch) -> str:
    """Return the name of the revision of one branch if a newer version of the code applied it, otherwise "".

    Args:
        connection: A connection of the owner or of the branch's login role.
        branch: The branch.
    """
    current = _current(connection, branch)
    return f"{branch.name}/{current}" if _is_newer(branch, current) else ""


def _current(connection: sa.Connection, branch: MigrationBranch) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": branch.schema})
    revision = context.get_current_revision()
    connection.commit()
    return revision


def _is_newer(branch: MigrationBranch, revision: str | None) -> bool:
    """Return whether a newer version of the code has migrated the database, as after a rollback."""
    return revision is not None and revision not in _revisions(branch)


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


def _execute(connection: sa.Connection, statement: sql.Composable) -> sa.CursorResult[Any]:
    """Execute a composed statement through SQLAlchemy, so that it tracks the transaction."""
    return connection.exec_driver_sql(statement.as_string(_driver(connection)).replace("%", "%%"))


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
