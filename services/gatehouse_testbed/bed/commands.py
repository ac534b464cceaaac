"""The commands `gatehouse testbed` and `gatehouse conformance`."""

from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.cli import ExitCode
from gatehouse.settings import environment
from gatehouse_testbed.errors import require_extra


def bed(
    *,
    realm: Annotated[Path | None, typer.Option(help="Realm file of the issuer.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Also write the description to this file when everything is ready.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of IPv4, :: for all.")
    ] = "127.0.0.1",
    name: Annotated[
        str | None,
        typer.Option(help="Host name that clients use; localhost if it listens on all addresses."),
    ] = None,
    default_ports: Annotated[
        bool,
        typer.Option("--default-ports", help="Use 8080, 8081, 50051 and following instead of free ports."),
    ] = False,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 for a free one, or the default.")
    ] = 0,
    issuer_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the issuer; 0 for a free one, or the default.")
    ] = 0,
    issuer_only: Annotated[
        bool, typer.Option("--issuer-only", help="Run the issuer without services.")
    ] = False,
) -> int:
    """Run the whole system for the tests of another program, in any language.

    Print one line of JSON with all addresses, certificates and secrets when it is ready. `control_url` in it
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
    method: Annotated[str, typer.Option(help="RPC that a valid token may call: package.Service/Method.")],
    audience: Annotated[str, typer.Option(help="Audience that your server expects.")] = "gatehouse-api",
    user: Annotated[
        str | None, typer.Option(help="User of the realm; empty for the client itself.")
    ] = "alice",
    client: Annotated[str, typer.Option(help="Client of the realm.")] = "gatehouse-console",
    scope: Annotated[str, typer.Option(help="Scopes to request; by default all of the client.")] = "",
    ca_file: Annotated[Path | None, typer.Option(help="Certificate authority of your server.")] = None,
    plaintext: Annotated[bool, typer.Option("--plaintext", help="Your server has no TLS.")] = False,  # noqa: FBT002
    realm: Annotated[Path | None, typer.Option(help="Realm file of the issuer.")] = None,
    issuer_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the issuer.")] = 8080,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until your server is ready.")] = 30.0,
) -> int:
    """Check that your own gRPC server refuses bad tokens; exit with 1 if it accepts one.

    Run the development issuer, and call your server with good and bad tokens. The server must trust the
    issuer http://127.0.0.1:8080/realms/gatehouse and the audience gatehouse-api. To introspect tokens, it
    uses the client gatehouse-api, whose secret is in the realm file.

    Examples:
      gatehouse conformance --target 127.0.0.1:50051 --plaintext --method acme.v1.Orders/GetOrder
    """
    require_extra()
    from gatehouse_testbed.bed.conformance import Target, check, table  # noqa: PLC0415 - see above
    from gatehouse_testbed.bed.token_request import TokenRequest  # noqa: PLC0415
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
