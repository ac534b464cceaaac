"""Checks of the database of a service: connection, login role, and migrations. Nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.runtime.doctor.result import Problem, Result, Status, attempt
from gatehouse.runtime.spec import ServiceSpec
from gatehouse.storage import Database
from gatehouse.storage.branches import MigrationBranch
from gatehouse.storage.errors import DatabaseUnavailable, failed_check
from gatehouse.storage.migrations import newer_migration, pending_migrations
from gatehouse.storage.standbys import StandbyConnector

_SESSION = """
    SELECT current_user, current_setting('server_version'), current_setting('transaction_read_only') = 'on'
"""
_PRIVILEGES = """
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
           has_schema_privilege(to_regnamespace(%s), 'CREATE')
    FROM pg_roles WHERE rolname = current_user
"""
_MIGRATE = "run `gatehouse migrate`"


async def check_database(spec: ServiceSpec[Any], database: Database, role: str) -> Sequence[Result]:
    """Check the database of a service as its login role.

    Args:
        spec: The service.
        database: Connection pool of the service.
        role: Its login role, see ServiceSpec.login_role.
    """
    connected = await attempt(f"{spec.name}: database", _check_session(spec, database))
    results = [connected]
    if connected.status is not Status.FAILED:
        results.append(await attempt(f"{spec.name}: login role", _check_role(spec, database, role)))
        results.append(await attempt(f"{spec.name}: migrations", _check_migrations(spec, database, role)))
    return results


async def check_standby(spec: ServiceSpec[Any], connector: StandbyConnector) -> str:
    """Check a standby of a service as its login role. Without one, the service works as well."""
    setting = f"GATEHOUSE_{spec.name.upper()}__STANDBY_URL"
    try:
        connection = await connector.open()
    except DatabaseUnavailable as error:
        text = f"{error.detail}; the primary answers all reads; check that it runs, and {setting}"
        raise Problem(text, Status.WARNING) from None
    version, role = connection.info.server_version, connection.info.user
    await connection.close()
    return f"PostgreSQL {version // 10_000}.{version % 10_000}, as {role}"


async def _check_session(spec: ServiceSpec[Any], database: Database) -> str:
    async with _connection(spec, database) as connection:
        row: Any = (await connection.exec_driver_sql(_SESSION)).one()
    role, version, read_only = row
    if read_only and not spec.read_only:
        raise Problem(
            f"the database is read-only for {role}; connect to the primary, and check "
            "default_transaction_read_only"
        )
    return f"PostgreSQL {version}, as {role}"


async def _check_role(spec: ServiceSpec[Any], database: Database, role: str) -> str:
    async with _connection(spec, database) as connection:
        row: Any = (await connection.exec_driver_sql(_PRIVILEGES, (spec.schema,))).one()
    privileged, creates = row
    if privileged or creates:
        reason = "is a superuser or administers roles or databases" if privileged else "may change the tables"
        raise Problem(
            f"the role {reason}; use {role}, which has only the privileges that the service needs",
            Status.WARNING,
        )
    return "no more privileges than needed"


async def _check_migrations(spec: ServiceSpec[Any], database: Database, role: str) -> str:
    branch = MigrationBranch(spec.name, spec.schema, role)
    async with _connection(spec, database) as connection:
        await connection.exec_driver_sql(spec.probe)
        pending = await connection.run_sync(pending_migrations, branch)
        newer = await connection.run_sync(newer_migration, branch)
    if pending:
        raise Problem(f"pending: {', '.join(pending)}; {_MIGRATE}")
    if newer:
        raise Problem(
            f"at {newer} of a newer version; expected during a roll-out or after a rollback only",
            Status.WARNING,
        )
    return "up to date"


@asynccontextmanager
async def _connection(spec: ServiceSpec[Any], database: Database) -> AsyncIterator[AsyncConnection]:
    """Open a connection; raise Problem if that or a statement on it fails."""
    setting = f"GATEHOUSE_{spec.name.upper()}__DATABASE_URL"
    try:
        async with database.read() as connection:
            yield connection
    except DatabaseUnavailable as error:
        if error.reason == "DATABASE_NOT_MIGRATED":
            raise Problem(f"tables of {spec.name} are missing; {_MIGRATE}") from None
        raise Problem(f"{error.detail}; check that it runs, and {setting}") from None
    except sa.exc.DBAPIError as error:
        failed = failed_check(error)
        hint = _MIGRATE if failed.reason == "DATABASE_ACCESS_DENIED" else f"check {setting}"
        raise Problem(f"{failed.detail}; {hint}") from None
