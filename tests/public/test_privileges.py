"""Privileges of the login role of PublicService, and of other login roles on its tables."""

from __future__ import annotations

import psycopg
import pytest


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("public", "INSERT INTO public_info.notices VALUES (gen_random_uuid(), '', now(), NULL)"),
        ("public", "SELECT * FROM users.users"),
        ("public", "SELECT * FROM admin.audit_events"),
        ("admin", "SELECT * FROM public_info.notices"),
    ],
)
def test_login_role_has_no_further_privileges(
    database_urls: dict[str, str], service: str, statement: str
) -> None:
    with (
        psycopg.connect(database_urls[service]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)
