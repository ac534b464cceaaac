"""The command `healthcheck`. Containers run it every few seconds, so it imports little."""

from __future__ import annotations

from typing import Annotated

import typer

from gatehouse.app.profile import local_profile
from gatehouse.app.services import SERVICES, find_services
from gatehouse.cli._errors import ExitCode, print_error
from gatehouse.client.health import SERVING, UNREACHABLE, check_health


def healthcheck(
    services: Annotated[
        list[str] | None,
        typer.Argument(help=f"Some of: {', '.join(SERVICES)}. By default, those that listen."),
    ] = None,
    *,
    liveness: Annotated[
        bool, typer.Option("--liveness", help="Check only whether the process responds.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds, for all services.")] = 3.0,
) -> int:
    """Check the health of services (grpc.health.v1).

    Exit with 0 if they serve, 1 if one does not, 3 if one is unreachable. The addresses are those of the
    profile (GATEHOUSE_PROFILE), or of the settings of a server on this machine.

    Examples:
      gatehouse healthcheck users
      gatehouse healthcheck users --liveness
    """
    names = [spec.name for spec in find_services(services or ())]
    found = check_health(local_profile(), names, "liveness" if liveness else "", timeout)
    problem = next((health.problem for health in found.values() if health.problem), "")
    if not services:
        found = {service: health for service, health in found.items() if health.status != UNREACHABLE}
    for service, health in found.items():
        typer.echo(f"{service}  {health.status}")
        if health.status != SERVING:
            hint = "check that it runs at this address" if health.status == UNREACHABLE else "see its log"
            why = f" ({health.problem})" if health.problem else ""
            print_error(f"{service}: {health.status}{why}; {hint}, or run `gatehouse doctor {service}`")
    if not found:
        print_error(
            f"no service responds at the addresses of the profile or the settings ({problem}); "
            "start one with `gatehouse serve NAME`, check that `ca_file` trusts its certificate, or run "
            "`gatehouse doctor`"
        )
    statuses = {health.status for health in found.values()}
    if not found or UNREACHABLE in statuses:
        return ExitCode.UNREACHABLE
    return ExitCode.OK if statuses == {SERVING} else ExitCode.REFUSED
