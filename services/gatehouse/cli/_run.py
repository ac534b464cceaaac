"""Commands that run something: serve, migrate, issuer, healthcheck."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from gatehouse.cli._fail import OK, REFUSED, UNREACHABLE, say
from gatehouse.settings import ConfigurationError, environment, load_settings, local_profile, secret_of

ReadyFile = Annotated[Path | None, typer.Option(help="Written with the ports, as JSON, once all listen.")]
DEFAULT_REALM = Path("keycloak/gatehouse-realm.json")


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
    from gatehouse.app.grpc_tuning import is_active, select_listener  # noqa: PLC0415 - only servers need it

    settings = load_settings()
    if is_active(settings.server.grpc_tuning):
        select_listener(os.environ)
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of their time
    # These import grpc, which reads the environment at import.
    from gatehouse.app.logs import make_logger  # noqa: PLC0415
    from gatehouse.app.serve import SERVICE_NAMES  # noqa: PLC0415
    from gatehouse.app.serve import serve as run  # noqa: PLC0415
    from gatehouse.app.workers import run_workers  # noqa: PLC0415

    gc.enable()

    names = list(dict.fromkeys(services))
    for name in names:
        if name not in SERVICE_NAMES:
            raise ConfigurationError(f"{name}: there is no such service; say some of users, admin, public")
    if workers > 1:
        logger = make_logger(settings.log, sys.stdout)
        return run_loop(run_workers(settings, names, workers, logger, ready_file))

    async def work() -> int:
        await run(settings, names, reuse_port=share_ports, ready_file=ready_file)
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

    database = load_settings().database
    url, wait = database.address("migrate"), database.lock_timeout_seconds
    if check:
        missing = check_migrations(url, lock_timeout=wait)
        for name in missing:
            typer.echo(f"missing  {name}")
        typer.echo("next: gatehouse migrate" if missing else "nothing is missing")
        return REFUSED if missing else OK
    given = {
        "users": database.users_password,
        "admin": database.admin_password,
        "public": database.public_password,
    }
    passwords = {name: value.get_secret_value() for name, value in given.items() if value is not None}
    ran = run(url, passwords=passwords, lock_timeout=wait)
    for name in ran:
        typer.echo(f"ran  {name}")
    if not ran:
        typer.echo("nothing was missing")
    return OK


def issuer(
    realm: Annotated[Path, typer.Option(help="Realm file, as Keycloak exports it.")] = DEFAULT_REALM,
    host: Annotated[str, typer.Option(help="An address of loopback.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    admin_password_file: Annotated[
        Path | None, typer.Option(help="Turns the admin calls on, for user `admin` with this password.")
    ] = None,
    ready_file: ReadyFile = None,
) -> int:
    """Runs the embedded development issuer. Not for production.

    Examples:
      gatehouse issuer --port 8080
    """
    from gatehouse.app.files import write_json  # noqa: PLC0415
    from gatehouse.issuer import load_realm, run_issuer  # noqa: PLC0415

    loaded = load_realm(realm, environment())
    password = secret_of(None, admin_password_file, "--admin-password")

    async def work() -> int:
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        async with run_issuer(loaded, host=host, port=port, admin_password=password) as running:
            say("DEVELOPMENT ISSUER: its secrets and passwords are public. Never use it in production.")
            typer.echo(f"issuer: {running.issuer}")
            if ready_file is not None:
                write_json(ready_file, {"issuer": running.issuer, "base_url": running.base_url})
            await ended.wait()
        return OK

    return run_loop(work())


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
    from gatehouse.app import probe  # noqa: PLC0415

    found = probe.check_health(local_profile(), services or (), "liveness" if liveness else "", timeout)
    if not services:
        found = {service: status for service, status in found.items() if status != probe.UNREACHABLE}
    for service, status in found.items():
        typer.echo(f"{service}  {status}")
        if status != probe.SERVING:
            say(f"{service}: {status}; its log says why")
    if not found:
        say(
            "no service answers where the profile or the settings say; `gatehouse serve` starts one, and its "
            "certificate must be of their ca_file"
        )
    if not found or probe.UNREACHABLE in found.values():
        return UNREACHABLE
    return OK if set(found.values()) == {probe.SERVING} else REFUSED
