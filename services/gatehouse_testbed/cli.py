"""Commands that the test bed adds to `gatehouse`: conformance, demo, issuer, seed, testbed, tour, trace."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli import ExitCode
from gatehouse.settings import environment, read_secret_file
from gatehouse_testbed.bed.commands import bed, conformance
from gatehouse_testbed.errors import TestbedError, require_extra

__all__ = ["bed", "conformance", "demo", "issuer", "seed", "tour", "trace"]

Svg = Annotated[Path | None, typer.Option(help="Also write the output to this file, as SVG.")]


def _exit_code(passed: bool | None) -> int:  # noqa: FBT001 - the result of a tour
    return ExitCode.INTERRUPTED if passed is None else ExitCode.OK if passed else ExitCode.REFUSED


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Skip the tour; keep the system running on its default ports.")
    ] = False,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="With --keep: use free ports instead.")
    ] = False,
    realm: Annotated[Path | None, typer.Option(help="Realm file of the issuer.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="With --keep: write addresses and process ids to this file, as JSON.")
    ] = None,
) -> int:
    """Run the whole system on this machine and a tour of it; exit with 1 if a check fails.

    Examples:
      gatehouse demo

      gatehouse demo --keep --ready-file ready.json
    """
    started_at = time.monotonic()
    require_extra()
    from gatehouse_testbed.demo import keep_running, run_demo  # noqa: PLC0415 - other commands need none of it

    if keep:
        try:
            asyncio.run(keep_running(started_at, realm=realm, free_ports=free_ports, ready_file=ready_file))
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
        return ExitCode.OK
    if free_ports or ready_file is not None:
        raise typer.BadParameter("--free-ports and --ready-file need --keep")
    return _exit_code(asyncio.run(run_demo(started_at, realm=realm)))


def issuer(
    realm: Annotated[
        Path | None, typer.Option(help="Realm file in Keycloak's export format; the bundled one by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8080,
    admin_password_file: Annotated[
        Path | None,
        typer.Option(help="File with the password of `admin`, the user of the admin API."),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the URLs to this file, as JSON, when the issuer is ready.")
    ] = None,
) -> int:
    """Run the development issuer. Not for production.

    Examples:
      gatehouse issuer --port 8080
    """
    require_extra()
    from gatehouse.runtime.files import write_json  # noqa: PLC0415 - other commands need none of these
    from gatehouse_testbed.files import realm_file  # noqa: PLC0415
    from gatehouse_testbed.issuer import load_realm, run_issuer  # noqa: PLC0415

    loaded = load_realm(realm or realm_file(), environment())
    password = None
    if admin_password_file is not None:
        password = read_secret_file(admin_password_file, "--admin-password-file")

    async def work() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with run_issuer(loaded, host=host, port=port, admin_password=password) as running:
            typer.echo("gatehouse: DEVELOPMENT ISSUER: its secrets and passwords are public", err=True)
            typer.echo(f"issuer: {running.issuer}")
            if ready_file is not None:
                write_json(ready_file, {"issuer": running.issuer, "base_url": running.base_url})
            await stopped.wait()

    asyncio.run(work())
    return ExitCode.OK


def seed() -> int:
    """Create a few users in the system of the profile (GATEHOUSE_PROFILE).

    Examples:
      GATEHOUSE_PROFILE=profile.json gatehouse seed
    """
    require_extra()
    from gatehouse.app.profile import load_full_profile  # noqa: PLC0415 - other commands need neither
    from gatehouse_testbed.directory import seed_directory  # noqa: PLC0415

    created = asyncio.run(seed_directory(load_full_profile()))
    typer.echo(f"{created} users created")
    return ExitCode.OK


def tour(svg: Svg = None) -> int:
    """Run the tour on the system of the profile (GATEHOUSE_PROFILE); exit with 1 if a check fails.

    Examples:
      GATEHOUSE_PROFILE=profile.json gatehouse tour
    """
    require_extra()
    from gatehouse.app.profile import load_full_profile  # noqa: PLC0415 - other commands need none of these
    from gatehouse.oauth import IssuerUnavailable  # noqa: PLC0415
    from gatehouse_testbed.console import make_console, save_svg  # noqa: PLC0415
    from gatehouse_testbed.demo import run_until_signal  # noqa: PLC0415
    from gatehouse_testbed.tour.tour import Tour  # noqa: PLC0415

    console = make_console(record=svg is not None)

    async def work() -> bool | None:
        return await run_until_signal(Tour(load_full_profile(), console).run())

    try:
        passed = asyncio.run(work())
    except IssuerUnavailable as error:
        raise TestbedError(
            f"the issuer is unavailable ({error}); start the system with `gatehouse demo --keep`, and set "
            "GATEHOUSE_PROFILE as it says"
        ) from None
    if svg is not None and passed is not None:
        save_svg(console, svg, "gatehouse tour")
    return _exit_code(passed)


def trace(
    trace_id: Annotated[str, typer.Argument(help="Trace id, as printed by `gatehouse call` and in the log.")],
    url: Annotated[
        str | None, typer.Option(help="URL of a Jaeger query API; that of the profile by default.")
    ] = None,
    svg: Svg = None,
) -> int:
    """Print a trace as a tree of spans.

    Examples:
      gatehouse trace 4bf92f3577b34da6a3ce929d0e0e4736

      gatehouse trace 4bf92f3577b34da6a3ce929d0e0e4736 --url http://127.0.0.1:16686 --svg trace.svg
    """
    from gatehouse.app.profile import load_full_profile  # noqa: PLC0415 - other commands need none of these
    from gatehouse.client.traces.spans import tree  # noqa: PLC0415
    from gatehouse_testbed.console import make_console, save_picture  # noqa: PLC0415
    from gatehouse_testbed.tracing.query import find_trace  # noqa: PLC0415
    from gatehouse_testbed.tracing.view import trace_view  # noqa: PLC0415

    spans = asyncio.run(find_trace(trace_id, url or load_full_profile().traces_url))
    view = trace_view(tree(spans))
    make_console().print(view)
    if svg is not None:
        save_picture(view, svg, f"gatehouse trace {trace_id}")
    return ExitCode.OK
