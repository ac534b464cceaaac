"""Commands that the test bed adds to `gatehouse`: conformance, demo, issuer, seed, testbed, tour, trace."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli import ExitCode
from gatehouse.settings import environment, read_secret_file
from gatehouse_testbed.errors import TestbedError, require_extra

Svg = Annotated[Path | None, typer.Option(help="Also save the output as a picture in this file.")]


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
    pictures: Annotated[
        Path | None, typer.Option(help="Save tour.svg, matrix.svg and trace.svg in this folder.")
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
    return _exit_code(asyncio.run(run_demo(started_at, realm=realm, pictures=pictures)))


def issuer(
    realm: Annotated[
        Path | None, typer.Option(help="Realm file in Keycloak's export format; the bundled one by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 8080,
    admin_password_file: Annotated[
        Path | None, typer.Option(help="Enables the admin API for user `admin` with this password.")
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
    """Fill the directory of the system of the profile with a few users.

    Examples:
      GATEHOUSE_PROFILE=profile.json gatehouse seed
    """
    require_extra()
    from gatehouse.app.profile import load_full_profile  # noqa: PLC0415 - other commands need neither
    from gatehouse_testbed.directory import seed_directory  # noqa: PLC0415

    created = asyncio.run(seed_directory(load_full_profile()))
    typer.echo(f"{created} users created")
    return ExitCode.OK


def bed(
    *,
    realm: Annotated[Path | None, typer.Option(help="Realm file of the issuer.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Also write the description to this file when all is ready.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option(help="Host name by which clients reach it; localhost if it listens on all addresses."),
    ] = None,
    default_ports: Annotated[
        bool, typer.Option("--default-ports", help="Use the same ports every time, instead of free ones.")
    ] = False,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 for a free one.")
    ] = 0,
    issuer_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the issuer; 0 for a free one.")
    ] = 0,
    issuer_only: Annotated[
        bool, typer.Option("--issuer-only", help="Run the issuer without services.")
    ] = False,
) -> int:
    """Run the whole system for the tests of another program, in any language.

    Prints one line of JSON with all addresses, certificates and secrets when it is ready. `control_url` in it
    is an HTTP API for tokens, faults, the clock, recorded calls and reset. The command ends on SIGTERM, and
    at the end of standard input if that is a pipe or a socket.

    Examples:
      gatehouse testbed --ready-file testbed.json

      gatehouse testbed --issuer-only --issuer-port 8080

      gatehouse testbed --host 0.0.0.0 --default-ports
    """
    require_extra()
    # What is imported stays; looking for garbage in it takes a tenth of the time to start.
    gc.disable()
    from gatehouse.runtime.loop import run_loop  # noqa: PLC0415 - other commands need none of these
    from gatehouse_testbed.bed.addresses import Addresses  # noqa: PLC0415
    from gatehouse_testbed.bed.run import Options, run_testbed  # noqa: PLC0415

    addresses = Addresses.create(host, name, control_port, issuer_port, default_ports=default_ports)
    options = Options(realm, ready_file, addresses, issuer_only)
    return run_loop(run_testbed(options))


def conformance(
    target: Annotated[str, typer.Option(help="gRPC target of your server.")],
    method: Annotated[str, typer.Option(help="RPC that a good token may call: package.Service/Method.")],
    audience: Annotated[str, typer.Option(help="Audience that your server expects.")] = "gatehouse-api",
    user: Annotated[
        str | None, typer.Option(help="User of the realm; none for the client itself.")
    ] = "alice",
    client: Annotated[str, typer.Option(help="Client of the realm.")] = "gatehouse-console",
    scope: Annotated[str, typer.Option(help="Scopes to request; all that the client may by default.")] = "",
    ca_file: Annotated[Path | None, typer.Option(help="Certificate authority of your server.")] = None,
    plaintext: Annotated[bool, typer.Option("--plaintext", help="Your server has no TLS.")] = False,  # noqa: FBT002
    realm: Annotated[Path | None, typer.Option(help="Realm file of the issuer.")] = None,
    issuer_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the issuer.")] = 8080,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that your server may take to be ready.")] = 30.0,
) -> int:
    """Check that your own gRPC server refuses bad tokens; exit with 1 if it accepts one.

    Runs the development issuer. Let your server trust it: issuer http://127.0.0.1:8080/realms/gatehouse,
    audience gatehouse-api. It introspects as the client gatehouse-api, whose secret is in the realm file.

    Examples:
      gatehouse conformance --target 127.0.0.1:50051 --plaintext --method acme.v1.Orders/GetOrder
    """
    require_extra()
    from gatehouse_testbed.bed.conformance import Target, check, table  # noqa: PLC0415 - see above
    from gatehouse_testbed.bed.tokens import TokenRequest  # noqa: PLC0415
    from gatehouse_testbed.console import make_console  # noqa: PLC0415
    from gatehouse_testbed.files import realm_file  # noqa: PLC0415
    from gatehouse_testbed.issuer import load_realm  # noqa: PLC0415

    if not re.fullmatch(r"/?[\w.]+/\w+", method):
        raise typer.BadParameter(f"--method {method!r}: name an RPC as package.Service/Method")
    if plaintext and ca_file is not None:
        raise typer.BadParameter("--ca-file and --plaintext exclude each other")
    token = TokenRequest(user=user or None, client=client, scope=scope)
    server = Target(target, f"/{method.lstrip('/')}", ca_file, plaintext, audience, token)
    loaded = load_realm(realm or realm_file(), environment())
    results = asyncio.run(check(loaded, server, issuer_port=issuer_port, wait_seconds=wait))
    console = make_console()
    console.print(table(results))
    wrong = [one.name for one in results if one.verdict == "ACCEPTED"]
    unclear = [one.name for one in results if one.verdict in {"unclear", "refused"}]
    challenges = sum(1 for one in results if one.challenge)
    console.print(f"{challenges} of {len(results)} answers have a challenge in www-authenticate (RFC 6750)")
    if unclear:
        console.print(f"look at: {', '.join(unclear)}")
    if wrong:
        console.print(f"accepted, and must be refused: {', '.join(wrong)}")
    return ExitCode.REFUSED if wrong else ExitCode.OK


def tour(svg: Svg = None) -> int:
    """Run the tour on the system of the profile; exit with 1 if a check fails.

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
    trace_id: Annotated[str, typer.Argument(help="Id that `gatehouse call` and the log print.")],
    url: Annotated[str | None, typer.Option(help="URL of a Jaeger query API.")] = None,
    svg: Svg = None,
) -> int:
    """Draw a trace as a tree of its spans.

    Examples:
      gatehouse trace 4bf92f3577b34da6a3ce929d0e0e4736

      gatehouse trace 4bf92f3577b34da6a3ce929d0e0e4736 --url http://127.0.0.1:16686 --svg trace.svg
    """
    from gatehouse.app.profile import load_full_profile  # noqa: PLC0415 - other commands need none of these
    from gatehouse_testbed.console import make_console, save_picture  # noqa: PLC0415
    from gatehouse_testbed.tracing.query import find_trace  # noqa: PLC0415
    from gatehouse_testbed.tracing.spans import tree  # noqa: PLC0415
    from gatehouse_testbed.tracing.view import trace_view  # noqa: PLC0415

    spans = asyncio.run(find_trace(trace_id, url or load_full_profile().traces_url))
    view = trace_view(tree(spans))
    make_console().print(view)
    if svg is not None:
        save_picture(view, svg, f"gatehouse trace {trace_id}")
    return ExitCode.OK
