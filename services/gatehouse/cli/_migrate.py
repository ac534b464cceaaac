"""The command `migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from gatehouse.app.services import SERVICES, migration_branches, settings_model
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._program import program_name
from gatehouse.settings import load_settings, with_login
from gatehouse.storage.migrations import check_migrations, newer_migrations
from gatehouse.storage.migrations import migrate as run_migrations


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="List the pending migrations; exit with 1 if there are any.")
    ] = False,
) -> int:
    """Run the migrations of all services, under a lock.

    Examples:
      gatehouse migrate
      gatehouse migrate --check
    """
    settings = load_settings(settings_model())
    branches = migration_branches(settings.database.role_prefix)
    password = settings.database.migrate_password
    url = with_login(
        settings.database.migrate_url.get_secret_value(),
        password=password.get_secret_value() if password is not None else None,
    )
    wait = settings.database.lock_timeout_seconds
    for name in newer_migrations(url, branches, lock_timeout=wait):
        typer.echo(f"newer    {name}; a newer version migrated the database, which this one leaves as it is")
    if check:
        pending = check_migrations(url, branches, lock_timeout=wait)
        for name in pending:
            typer.echo(f"pending  {name}")
        typer.echo(f"next: {program_name()} migrate" if pending else "no pending migrations")
        return ExitCode.REFUSED if pending else ExitCode.OK
    passwords = {
        name: password.get_secret_value()
        for name in SERVICES
        if (password := getattr(settings, name).database_password) is not None
    }
    applied = run_migrations(url, branches, passwords=passwords, lock_timeout=wait)
    for name in applied:
        typer.echo(f"applied  {name}")
    if not applied:
        typer.echo("no pending migrations")
    return ExitCode.OK
