"""One line of history, up, down and up again, equal to the tables in code."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from gatehouse.admin.tables import metadata as admin
from gatehouse.public.tables import metadata as public
from gatehouse.storage.migrations import LOGIN_ROLES, MigrationError, check_migrations, migrate
from gatehouse.users.tables import metadata as users

from tests.support.database import named


@pytest.fixture
def empty(postgres: Any) -> Iterator[str]:
    uri = postgres.get_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty_one")
    yield named(uri, "empty_one")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP DATABASE empty_one WITH (FORCE)")


ALL = ["0001_users", "0002_admin", "0003_public", "0004_role_outbox"]


def differences(url: str) -> list[object]:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    ours = {"users", "admin", "public_info"}
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name in ours,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        found = compare_metadata(context, [users, admin, public])
    engine.dispose()
    return list(found)


def test_up_down_up_ends_with_the_tables_in_code(empty: str) -> None:
    assert check_migrations(empty) == ALL
    assert migrate(empty) == ALL
    assert differences(empty) == []
    assert migrate(empty, revision="base") == ALL
    assert check_migrations(empty) == ALL
    assert migrate(empty) == ALL
    assert differences(empty) == []
    assert migrate(empty) == []
    assert check_migrations(empty) == []


def test_bindings_of_before_the_outbox_are_brought_to_the_provider_too(empty: str) -> None:
    migrate(empty, revision="0003_public")
    with psycopg.connect(empty) as connection:
        connection.execute(
            "INSERT INTO admin.role_bindings VALUES (gen_random_uuid(), 'admin', now(), 'alice')"
        )
    assert migrate(empty) == ["0004_role_outbox"]
    with psycopg.connect(empty) as connection:
        found = connection.execute("SELECT role, granted, done_time FROM admin.role_outbox")
        assert found.fetchall() == [("admin", True, None)]


def test_a_migration_waits_for_another_one_no_longer_than_the_lock_timeout(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as other:
        other.execute(f"SELECT pg_advisory_lock({0x6A7E_0001})")
        with pytest.raises(MigrationError, match="another process held a lock"):
            migrate(empty, lock_timeout=0.1)
    assert check_migrations(empty) == ALL


def test_a_database_that_is_away_is_one_line() -> None:
    with pytest.raises(MigrationError, match="cannot be reached"):
        migrate("postgresql://nobody@127.0.0.1:1/nothing")


def test_two_that_migrate_at_once_run_each_script_once(empty: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        ran = list(pool.map(lambda _: migrate(empty, lock_timeout=60), range(3)))
    assert sorted(ran) == sorted([ALL, [], []])
    assert check_migrations(empty) == []


def test_a_migration_that_waits_for_a_table_says_so_and_can_be_run_again(empty: str) -> None:
    migrate(empty)
    with psycopg.connect(empty) as other:
        other.execute("SELECT 1 FROM users.users")
        with pytest.raises(MigrationError, match=r"another process held a lock for 0\.1 s"):
            migrate(empty, lock_timeout=0.1, revision="base")
    migrate(empty)
    assert differences(empty) == []


def test_a_script_that_fails_is_one_line_and_leaves_nothing(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA users")
    with pytest.raises(MigrationError, match='nothing of it was kept: schema "users" already exists'):
        migrate(empty)
    assert check_migrations(empty) == ALL


def test_a_database_of_a_newer_version_is_left_alone(empty: str) -> None:
    migrate(empty)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    for ask in (migrate, check_migrations):
        with pytest.raises(MigrationError, match="9999_later, which this Gatehouse does not know"):
            ask(empty)


def test_a_role_without_rights_is_told_so_in_one_line(empty: str, template: str) -> None:
    with pytest.raises(MigrationError, match="the role gatehouse_users may not do this"):
        migrate(named(empty, "empty_one", "gatehouse_users"))


def test_a_login_role_makes_no_temporary_table_either(empty: str) -> None:
    migrate(empty)
    for role in LOGIN_ROLES.values():
        with (
            psycopg.connect(named(empty, "empty_one", role)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("CREATE TEMPORARY TABLE mine (i int)")


def test_passwords_of_login_roles_are_set_as_verifiers(empty: str) -> None:
    migrate(empty, passwords={"public": "canary%word'"})
    with psycopg.connect(empty) as connection:
        row = connection.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = 'gatehouse_public'"
        ).fetchone()
        assert row is not None
        assert row[0].startswith("SCRAM-SHA-256$")
        connection.execute("ALTER ROLE gatehouse_public PASSWORD NULL")
        connection.commit()


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("users", "UPDATE users.audit_events SET action = ''"),
        ("users", "DELETE FROM users.audit_events"),
        ("users", "SELECT * FROM admin.role_bindings"),
        ("users", "CREATE TABLE public.mine (i int)"),
        ("users", "CREATE TABLE users.mine (i int)"),
        ("users", "CREATE SCHEMA mine"),
        ("users", "CREATE ROLE mine"),
        ("users", "UPDATE users.user_changes SET kind = 0"),
        ("users", "UPDATE users.requests SET response = ''"),
        ("users", "DELETE FROM users.change_feed"),
        ("users", "TRUNCATE users.users"),
        ("users", "ALTER TABLE users.audit_events DROP COLUMN action"),
        ("users", "SELECT * FROM public.alembic_version"),
        ("users", "SELECT * FROM pg_authid"),
        ("admin", "UPDATE admin.audit_events SET action = ''"),
        ("admin", "UPDATE admin.role_bindings SET role = ''"),
        ("admin", "SELECT * FROM public_info.notices"),
        ("public", "SELECT * FROM users.users"),
        ("public", "SELECT * FROM admin.audit_events"),
        ("admin", "DELETE FROM admin.audit_events"),
        ("admin", "TRUNCATE admin.audit_events"),
        ("admin", "SELECT * FROM users.users"),
        ("admin", "TRUNCATE admin.role_outbox"),
        ("users", "SELECT * FROM admin.role_outbox"),
        ("public", "INSERT INTO public_info.notices VALUES (gen_random_uuid(), '', now(), NULL)"),
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


def test_login_roles_get_the_passwords_that_are_given(empty: str) -> None:
    migrate(empty, passwords={"users": "canary-2f7c"})
    with psycopg.connect(empty, autocommit=True) as connection:
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'gatehouse_users'"
        (kept,) = connection.execute(query).fetchone() or (None,)
        connection.execute("ALTER ROLE gatehouse_users PASSWORD NULL")
    assert str(kept).startswith("SCRAM-SHA-256$")
