"""Migrations: up, down and up again; equal to the tables in code; locks, roles and privileges."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from gatehouse.app.services import migration_branches
from gatehouse.storage.branches import MigrationError
from gatehouse.storage.migrations import check_migrations, migrate, newer_migrations
from tests.support.database import LOGIN_ROLES, named, owner_url


@pytest.fixture
def empty(postgres: Any) -> Iterator[str]:
    uri = owner_url(postgres)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_one")
    yield named(uri, "empty_one")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP DATABASE empty_one WITH (FORCE)")


@pytest.fixture
def other(empty: str) -> Iterator[str]:
    """Another empty database on the same server."""
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_two")
    yield named(empty, "empty_two")
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("DROP DATABASE empty_two WITH (FORCE)")


BRANCHES = migration_branches()
(USERS,) = (branch for branch in BRANCHES if branch.name == "users")
# <part admin>
(ADMIN,) = (branch for branch in BRANCHES if branch.name == "admin")
# </part admin>


def differences(url: str) -> list[object]:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    ours = {branch.schema for branch in BRANCHES}
    tables = [import_module(f"gatehouse.{branch.name}.tables").metadata for branch in BRANCHES]
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: (
                    name in ours if kind == "schema" else name != "alembic_version"
                ),
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        found = compare_metadata(context, tables)
    engine.dispose()
    return list(found)


def test_up_down_up_ends_with_the_tables_in_code(empty: str) -> None:
    all_scripts = check_migrations(empty, BRANCHES)
    assert {name.partition("/")[0] for name in all_scripts} == {branch.name for branch in BRANCHES}
    assert migrate(empty, BRANCHES) == all_scripts
    assert differences(empty) == []
    assert migrate(empty, BRANCHES, revision="base") == all_scripts
    assert check_migrations(empty, BRANCHES) == all_scripts
    assert migrate(empty, BRANCHES) == all_scripts
    assert differences(empty) == []
    assert migrate(empty, BRANCHES) == []
    assert check_migrations(empty, BRANCHES) == []


def scripts(service: str) -> list[str]:
    """Return the names of all migrations of a service."""
    folder = Path(__file__).resolve().parents[2] / "migrations" / service
    return [f"{service}/{path.stem}" for path in sorted(folder.glob("[0-9]*.py"))]


# <part admin>
def test_a_branch_is_independent_of_the_others(empty: str) -> None:
    assert migrate(empty, [ADMIN]) == scripts("admin")
    assert check_migrations(empty, [ADMIN]) == []
    assert check_migrations(empty, [USERS]) == scripts("users")
    assert migrate(empty, [USERS]) == scripts("users")
    assert migrate(empty, [ADMIN], revision="base") == scripts("admin")
    assert check_migrations(empty, [USERS]) == []


def test_role_bindings_from_before_the_outbox_are_delivered_too(empty: str) -> None:
    migrate(empty, [ADMIN], revision="0001_admin")
    with psycopg.connect(empty) as connection:
        connection.execute(
            "INSERT INTO admin.role_bindings VALUES (gen_random_uuid(), 'admin', now(), 'alice')"
        )
    assert migrate(empty, [ADMIN]) == scripts("admin")[1:]
    with psycopg.connect(empty) as connection:
        found = connection.execute("SELECT role, granted, done_time FROM admin.role_outbox")
        assert found.fetchall() == [("admin", True, None)]


# </part admin>


def test_rows_from_before_the_issuer_of_the_caller_are_kept(empty: str) -> None:
    """A process of the release before, which writes no issuer, can run beside the new ones."""
    request = (
        "INSERT INTO users.requests (subject, request_id, fingerprint, response, create_time)"
        " VALUES ('alice', gen_random_uuid(), '', '', now())"
    )
    event = (
        "INSERT INTO users.audit_events"
        " (audit_event_id, method, subject, client_id, resource, action, trace_id)"
        " VALUES (gen_random_uuid(), 'm', 'alice', 'c', 'r', 'a', '')"
    )
    migrate(empty, [USERS], revision="0001_users")
    with psycopg.connect(empty, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(request)
            connection.execute(event)
            migrate(empty, [USERS])
        for table in ("requests", "audit_events"):
            found = connection.execute(f"SELECT subject, issuer FROM users.{table}")
            assert found.fetchall() == [("alice", "")] * 2
        # Two callers with one request id, which the tables of before cannot hold.
        connection.execute(
            "INSERT INTO users.requests SELECT subject, request_id, fingerprint, response, create_time, 'i'"
            " FROM users.requests"
        )
    assert migrate(empty, [USERS], revision="base") == scripts("users")


def test_a_migration_waits_for_another_one_no_longer_than_the_lock_timeout(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as other:
        other.execute(f"SELECT pg_advisory_lock({0x6A7E_0001})")
        with pytest.raises(MigrationError, match="another process held a lock"):
            migrate(empty, BRANCHES, lock_timeout=0.1)
    assert check_migrations(empty, BRANCHES) != []


def test_a_database_that_is_away_is_one_line() -> None:
    with pytest.raises(MigrationError, match=r"Connection refused; check GATEHOUSE_DATABASE__MIGRATE_URL"):
        migrate("postgresql://nobody@127.0.0.1:1/nothing", BRANCHES)


def test_two_that_migrate_at_once_run_each_script_once(empty: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        ran = list(pool.map(lambda _: migrate(empty, BRANCHES, lock_timeout=60), range(3)))
    assert sorted(map(bool, ran)) == [False, False, True]
    assert check_migrations(empty, BRANCHES) == []


def test_a_migration_that_waits_for_a_table_says_so_and_can_be_run_again(empty: str) -> None:
    migrate(empty, BRANCHES)
    with psycopg.connect(empty) as other:
        other.execute("SELECT 1 FROM users.users")
        with pytest.raises(MigrationError, match=r"another process held a lock for 0\.1 s"):
            migrate(empty, BRANCHES, lock_timeout=0.1, revision="base")
    migrate(empty, BRANCHES)
    assert differences(empty) == []


def test_a_script_that_fails_is_rolled_back(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA users CREATE TABLE users (i int)")
    with pytest.raises(MigrationError, match='was rolled back: relation "users" already exists'):
        migrate(empty, [USERS])
    assert check_migrations(empty, [USERS]) == scripts("users")


def test_a_database_of_a_newer_version_keeps_its_tables_and_gets_new_passwords(empty: str) -> None:
    """The previous version migrates, too, when it is rolled back with its whole deployment."""
    branches = migration_branches("newer")
    migrate(empty, branches)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("UPDATE users.alembic_version SET version_num = '9999_later'")
    assert newer_migrations(empty, branches) == ["users/9999_later"]
    assert migrate(empty, branches, passwords={"users": "new"}) == check_migrations(empty, branches) == []
    assert str(password_of(empty, "newer_users")).startswith("SCRAM-SHA-256$")
    with pytest.raises(MigrationError, match="at revision 9999_later of a newer version; use that"):
        migrate(empty, branches, revision="base")
    assert newer_migrations(empty, branches) == ["users/9999_later"]


def test_a_missing_privilege_is_reported_in_one_line(empty: str, template: str) -> None:
    with pytest.raises(MigrationError, match="the role gatehouse_users lacks a privilege"):
        migrate(named(empty, "empty_one", "gatehouse_users"), BRANCHES)


def test_a_login_role_makes_no_temporary_table_either(empty: str) -> None:
    migrate(empty, BRANCHES)
    for role in LOGIN_ROLES.values():
        with (
            psycopg.connect(named(empty, "empty_one", role)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("CREATE TEMPORARY TABLE mine (i int)")


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("users", "UPDATE users.audit_events SET action = ''"),
        ("users", "DELETE FROM users.audit_events"),
        # <part admin>
        ("users", "SELECT * FROM admin.role_bindings"),
        # </part admin>
        ("users", "CREATE TABLE public.mine (i int)"),
        ("users", "CREATE TABLE users.mine (i int)"),
        ("users", "CREATE SCHEMA mine"),
        ("users", "CREATE ROLE mine"),
        ("users", "UPDATE users.user_changes SET kind = 0"),
        ("users", "UPDATE users.requests SET response = ''"),
        ("users", "DELETE FROM users.change_feed"),
        ("users", "TRUNCATE users.users"),
        ("users", "ALTER TABLE users.audit_events DROP COLUMN action"),
        ("users", "DELETE FROM users.alembic_version"),
        ("users", "SELECT * FROM pg_authid"),
        # <part admin>
        ("admin", "UPDATE admin.audit_events SET action = ''"),
        ("admin", "UPDATE admin.role_bindings SET role = ''"),
        ("admin", "DELETE FROM admin.audit_events"),
        ("admin", "TRUNCATE admin.audit_events"),
        ("admin", "SELECT * FROM users.users"),
        ("admin", "TRUNCATE admin.role_outbox"),
        ("users", "SELECT * FROM admin.role_outbox"),
        # </part admin>
    ],
)
def test_a_login_role_can_do_no_more_than_its_service_needs(
    database_urls: dict[str, str], service: str, statement: str
) -> None:
    with (
        psycopg.connect(database_urls[service]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def password_of(url: str, role: str) -> str | None:
    """Return the SCRAM verifier of a role."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role]).fetchone()
    return found[0] if found else None


def has_access(url: str, role: str, privilege: str) -> bool:
    query = "SELECT has_table_privilege(%s, 'users.users', %s) AND has_schema_privilege(%s, 'users', 'USAGE')"
    with psycopg.connect(url) as connection:
        return connection.execute(query, [role, privilege, role]).fetchone() == (True,)


def test_login_roles_get_the_passwords_that_are_given(empty: str) -> None:
    migrate(empty, migration_branches("first"), passwords={"users": "canary%2f7c'"})
    assert str(password_of(empty, "first_users")).startswith("SCRAM-SHA-256$")
    assert password_of(empty, "first_admin") is None
    assert has_access(empty, "first_users", "INSERT")


def test_role_of_another_database_gets_no_new_password(empty: str, other: str) -> None:
    passwords = {"users": "of the first"}
    migrate(empty, migration_branches("first"), passwords=passwords)
    before = password_of(empty, "first_users")
    with pytest.raises(MigrationError, match=r"belongs to .* the database empty_one.*ROLE_PREFIX"):
        migrate(other, migration_branches("first"), passwords={"users": "of the second"})
    assert password_of(empty, "first_users") == before
    assert check_migrations(other, BRANCHES)
    migrate(other, migration_branches("second"), passwords={"users": "of the second"})
    assert not has_access(other, "first_users", "SELECT")
    migrate(empty, migration_branches("first"), passwords=passwords)


def test_new_prefix_replaces_the_roles_of_a_migrated_database(empty: str) -> None:
    migrate(empty, BRANCHES)
    assert migrate(empty, migration_branches("first"), passwords={"users": "new"}) == []
    assert has_access(empty, "first_users", "INSERT")
    assert not has_access(empty, "gatehouse_users", "SELECT")
    assert migrate(empty, migration_branches("second")) == []
    assert has_access(empty, "second_users", "INSERT")
    assert not has_access(empty, "first_users", "SELECT")
    with (
        psycopg.connect(named(empty, "empty_one", "second_users")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("UPDATE users.audit_events SET action = ''")


def test_migrations_of_two_databases_at_once_share_roles(empty: str, other: str) -> None:
    for number in range(3):
        prefix = f"fresh_{number}"
        branches = migration_branches(prefix)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(migrate, branches=branches, lock_timeout=60), [empty, other] * 2))
        for url in (empty, other):
            assert has_access(url, f"{prefix}_users", "INSERT")


@pytest.mark.parametrize(
    "statement",
    ["CREATE ROLE late_users LOGIN", "ALTER ROLE early_users PASSWORD 'x'"],
    ids=["23505", "XX000"],
)
def test_migration_survives_a_change_of_its_role_by_another_database(
    empty: str, other: str, statement: str
) -> None:
    prefix = "late" if "late" in statement else "early"
    if prefix == "early":
        migrate(empty, migration_branches(prefix))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = 'empty_one' AND wait_event_type = 'Lock'"
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(other, autocommit=True) as monitor,
        psycopg.connect(other) as connection,
    ):
        connection.execute(statement)
        migration = pool.submit(
            migrate, empty, migration_branches(prefix), passwords={"users": "new"}, lock_timeout=60
        )
        while not monitor.execute(waiting).fetchone():
            assert not migration.done()
        connection.commit()
        migration.result(60)
    assert has_access(empty, f"{prefix}_users", "INSERT")
    assert str(password_of(empty, f"{prefix}_users")).startswith("SCRAM-SHA-256$")


def test_owner_of_a_managed_database_can_migrate_without_being_superuser(empty: str) -> None:
    """As with CloudNativePG and hosted PostgreSQL: it owns the database, and may create roles."""
    branches = migration_branches("managed")
    everything = [script for branch in branches for script in scripts(branch.name)]
    passwords = {branch.name: "canary" for branch in branches}
    with psycopg.connect(empty, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE managed_owner LOGIN CREATEROLE")
        superuser.execute("ALTER DATABASE empty_one OWNER TO managed_owner")
    owner = named(empty, "empty_one", "managed_owner")
    try:
        assert migrate(owner, branches, passwords=passwords) == everything
        assert migrate(owner, branches, passwords=passwords) == []  # sets the passwords again
        with psycopg.connect(named(empty, "empty_one", branches[0].login_role)) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (branches[0].login_role,)
        assert migrate(owner, branches, revision="base") == everything
    finally:
        with psycopg.connect(empty, autocommit=True) as superuser:
            superuser.execute("ALTER DATABASE empty_one OWNER TO CURRENT_USER")
            for role in (*(branch.login_role for branch in branches), "managed_owner"):
                superuser.execute(f"DROP OWNED BY {role}")
                superuser.execute(f"DROP ROLE {role}")
