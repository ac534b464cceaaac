"""Commands that run something: serve, migrate, issuer, healthcheck."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from gatehouse.app.services import SERVICES, find_services, migration_branches, settings_model
from gatehouse.cli._fail import OK, REFUSED, UNREACHABLE, say
from gatehouse.settings import load_settings, with_password

ReadyFile = Annotated[Path | None, typer.Option(help="Written with the ports, as JSON, once all listen.")]


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Runs a coroutine on uvloop where it exists."""
    try:
        import uvloop  # noqa: PLC0415 - only where it exists
    except ImportError:
        return asyncio.run(work)
    code: int = uvloop.run(work)
    return code


def serve(
    services: Annotated[list[str], typer.Argument(help="Some of: users, admin, public.")],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the ports.")] = 1,
    ready_file: ReadyFile = None,
    *,
    share_ports: Annotated[bool, typer.Option("--share-ports", hidden=True)] = False,
) -> int:
    """Serves any of the three services in one process, or in several behind one port.

    Examples:
      gatehouse serve users admin public

      gatehouse serve users --workers 4
    """
    from gatehouse.runtime.grpc_tuning import is_active, select_listener  # noqa: PLC0415 - only servers need it

    specs = find_services(services)
    settings = load_settings(settings_model())
    if is_active(settings.server.grpc_tuning):
        select_listener(os.environ)
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of their time
    # These import grpc, which reads the environment at import.
    from gatehouse.app.serve import serve as run  # noqa: PLC0415
    from gatehouse.app.workers import run_workers  # noqa: PLC0415
    from gatehouse.runtime.logs import make_logger  # noqa: PLC0415

    gc.enable()
    if workers > 1:
        logger = make_logger(settings.log, sys.stdout)
        return run_loop(run_workers(settings, specs, workers, logger, ready_file))

    async def work() -> int:
        await run(settings, specs, reuse_port=share_ports, ready_file=ready_file)
        return OK

    return run_loop(work())


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing; 1 when something is.")
    ] = False,
) -> int:
    """Brings the database to the newest version, under a lock.

    Examples:
      gatehouse migrate

      gatehouse migrate --check
    """
    from gatehouse.storage.migrations import check_migrations  # noqa: PLC0415
    from gatehouse.storage.migrations import migrate as run  # noqa: PLC0415

    settings = load_settings(settings_model())
    branches = migration_branches()
    url = with_password(settings.database.migrate_url, settings.database.migrate_password)
    wait = settings.database.lock_timeout_seconds
    if check:
        missing = check_migrations(url, branches, lock_timeout=wait)
        for name in missing:
            typer.echo(f"pending  {name}")
        typer.echo("next: gatehouse migrate" if missing else "no pending migrations")
        return REFUSED if missing else OK
    passwords = {}
    for name in SERVICES:
        password = getattr(settings, name).database_password
        if password is not None:
            passwords[name] = password.get_secret_value()
    ran = run(url, branches, passwords=passwords, lock_timeout=wait)
    for name in ran:
        typer.echo(f"applied  {name}")
    if not ran:
        typer.echo("no pending migrations")
    return OK


def healthcheck(
    services: Annotated[
        list[str] | None,
        typer.Argument(help="Some of: users, admin, public; without any, those that listen."),
    ] = None,
    *,
    liveness: Annotated[bool, typer.Option("--liveness", help="Only whether the process runs.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60)] = 3.0,
) -> int:
    """Asks services whether they serve (grpc.health.v1): 0 they do, 1 one does not, 3 one cannot be reached.

    Where they are is said by the profile, or else by the settings with which a server runs here.

    Examples:
      gatehouse healthcheck users

      gatehouse healthcheck users --liveness
    """
    from gatehouse.app.profile import local_profile  # noqa: PLC0415
    from gatehouse.client import health  # noqa: PLC0415

    names = [spec.name for spec in find_services(services or ())]
    found = health.check_health(local_profile(), names, "liveness" if liveness else "", timeout)
    if not services:
        found = {service: status for service, status in found.items() if status != health.UNREACHABLE}
    for service, status in found.items():
        typer.echo(f"{service}  {status}")
        if status != health.SERVING:
            say(f"{service}: {status}; its log says why")
    if not found:
        say(
            "no service answers where the profile or the settings say; `gatehouse serve` starts one, and its "
            "certificate must be of their ca_file"
        )
    if not found or health.UNREACHABLE in found.values():
        return UNREACHABLE
    return OK if set(found.values()) == {health.SERVING} else REFUSED
