"""The command `doctor`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Literal

import typer

from gatehouse.app.doctor import diagnose
from gatehouse.app.services import SERVICES, configured_services, find_services, settings_model
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._output import print_table
from gatehouse.cli._program import name_program
from gatehouse.runtime.doctor import Status
from gatehouse.settings import load_settings

COLUMNS = ("check", "status", "detail")
STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Some of: {', '.join(SERVICES)}. By default, those that have their own settings."
        ),
    ] = None,
    output_format: Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")] = (
        "table"
    ),
) -> int:
    """Check settings and everything that services depend on, and print how to fix what fails.

    It checks secrets, certificates, ports, issuers, databases, other services and the OTLP collector. It
    changes nothing. Exit with 0 if no check failed, otherwise with 1.

    Examples:
      gatehouse doctor
      gatehouse doctor users --format json
    """
    settings = load_settings(settings_model())
    specs = find_services(services) if services else configured_services(settings)
    results = asyncio.run(diagnose(settings, specs))
    rows = [(result.check, result.status.value, name_program(result.detail)) for result in results]
    if output_format == "json":
        typer.echo(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows], indent=2))
    else:
        print_table(COLUMNS, rows, styles=STYLES)
    return ExitCode.REFUSED if any(result.status is Status.FAILED for result in results) else ExitCode.OK
