"""Commands that the test bed adds to `gatehouse`: demo, issuer, tour, trace."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.app.profile import load_full_profile
from gatehouse.cli import ExitCode, ReadyFile, print_error
from gatehouse.runtime.loop import run_loop
from gatehouse.settings import environment, read_secret_file

Svg = Annotated[Path | None, typer.Option(help="Saves what is shown as a picture too.")]
RealmFile = Annotated[Path | None, typer.Option(help="Realm file of the issuer, to see what a change does.")]


def _code(good: bool | None) -> int:  # noqa: FBT001 - what came out
    return ExitCode.INTERRUPTED if good is None else ExitCode.OK if good else ExitCode.REFUSED


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="No tour: keeps the system running, on its usual ports.")
    ] = False,
    free_ports: Annotated[
        bool,
        typer.Option("--free-ports", help="With --keep: ports that are free, instead of the usual ones."),
    ] = False,
    realm: RealmFile = None,
    svg: Svg = None,
    trace_svg: Annotated[Path | None, typer.Option(help="Saves the trace alone as a picture.")] = None,
) -> int:
    """Runs the whole system on this machine and a tour of it; 1 when something is not as promised.

    Examples:
      gatehouse demo

      gatehouse demo --keep
    """
    began = time.monotonic()
    from gatehouse_testbed.run import keep_running, run_demo  # noqa: PLC0415 - only who runs it pays for it

    work = (
        keep_running(began=began, realm=realm, free_ports=free_ports)
        if keep
        else run_demo(began=began, realm=realm, svg=svg, trace_svg=trace_svg)
    )
    return _code(asyncio.run(work))


def issuer(
    realm: Annotated[
        Path | None, typer.Option(help="Realm file in Keycloak's export format; the bundled one if omitted.")
    ] = None,
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
    from gatehouse.runtime.files import write_json  # noqa: PLC0415
    from gatehouse_testbed.files import realm_file  # noqa: PLC0415
    from gatehouse_testbed.issuer import load_realm, run_issuer  # noqa: PLC0415

    loaded = load_realm(realm or realm_file(), environment())
    password = None
    if admin_password_file is not None:
        password = read_secret_file(admin_password_file, "--admin-password-file")

    async def work() -> int:
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        async with run_issuer(loaded, host=host, port=port, admin_password=password) as running:
            print_error(
                "DEVELOPMENT ISSUER: its secrets and passwords are public. Never use it in production."
            )
            typer.echo(f"issuer: {running.issuer}")
            if ready_file is not None:
                write_json(ready_file, {"issuer": running.issuer, "base_url": running.base_url})
            await ended.wait()
        return ExitCode.OK

    return run_loop(work())


def tour(svg: Svg = None) -> int:
    """Runs the tour on the system of the profile; 1 when something is not as promised.

    Examples:
      GATEHOUSE_PROFILE=profile.json gatehouse tour
    """
    from gatehouse_testbed.run import run_tour  # noqa: PLC0415

    return _code(asyncio.run(run_tour(load_full_profile(), svg=svg)))


def trace(
    trace_id: Annotated[str, typer.Argument(help="As `gatehouse call` and log lines have it.")],
    url: Annotated[str | None, typer.Option(help="A server of Jaeger's query API.")] = None,
    svg: Svg = None,
) -> int:
    """Draws a trace as a tree of its spans, over the time of each.

    Examples:
      gatehouse trace 4bf92f3577b34da6a3ce929d0e0e4736

      gatehouse trace 4bf92f3577b34da6a3ce929d0e0e4736 --url http://127.0.0.1:16686 --svg trace.svg
    """
    from gatehouse_testbed.run import show_trace  # noqa: PLC0415

    asyncio.run(show_trace(trace_id, url or load_full_profile().traces_url, svg))
    return ExitCode.OK
