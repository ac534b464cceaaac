"""The command `issuer-check`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gatehouse.app.issuer_check import diagnose_token, select_issuer
from gatehouse.app.services import settings_model
from gatehouse.cli._doctor import COLUMNS, STYLES
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._output import print_table
from gatehouse.runtime.doctor import Status
from gatehouse.runtime.doctor.evidence import shown
from gatehouse.settings import ConfigurationError, ProviderName, VerifyMode, load_settings

_INPUT_CHARS = 64 * 1024


def issuer_check(
    *,
    issuer: Annotated[
        str | None,
        typer.Option(
            help="URL of the issuer. Without it, the entry of GATEHOUSE_ISSUERS for the token is used."
        ),
    ] = None,
    provider: Annotated[
        ProviderName | None,
        typer.Option("--preset", "--provider", help="Provider whose preset to use."),
    ] = None,
    audience: Annotated[list[str] | None, typer.Option(help="Accepted audience; can be repeated.")] = None,
    mode: Annotated[VerifyMode | None, typer.Option(help="How tokens are verified.")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client that introspects tokens.")] = None,
    client_secret_file: Annotated[Path | None, typer.Option(help="File with its secret.")] = None,
    output_format: Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")] = (
        "table"
    ),
) -> int:
    """Check the settings of an issuer with one of its access tokens, which is read from standard input.

    Print what a server reads from the token, or why it refuses the token and how to fix the settings. Options
    override settings. Exit with 0 if the token is accepted, otherwise with 1.

    Examples:
      gatehouse issuer-check < token.txt
      gatehouse issuer-check --issuer https://TENANT.eu.auth0.com/ --preset auth0 < token.txt
    """
    options = {
        "provider": provider,
        "audience": audience,
        "mode": mode,
        "client_id": client_id,
        "client_secret_file": client_secret_file,
    }
    changes = {name: value for name, value in options.items() if value}
    settings = select_issuer(load_settings(settings_model()), issuer, changes)
    report = asyncio.run(diagnose_token(settings, _read_input()))
    rows = [(result.check, result.status.value, result.detail) for result in report.results]
    accepted = not any(result.status is Status.FAILED for result in report.results)
    if output_format == "json":
        checks = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        answer = {"accepted": accepted, "issuer": report.name, "checks": checks, "caller": report.caller}
        typer.echo(json.dumps(answer, indent=2))
    else:
        print_table(COLUMNS, rows, styles=STYLES)
        if report.caller is not None:
            title = "caller" if accepted else "caller, once that is fixed"
            typer.echo()
            print_table(
                (title, "value"),
                [(name.replace("_", " "), _text(value)) for name, value in report.caller.items()],
            )
    return ExitCode.OK if accepted else ExitCode.REFUSED


def _read_input() -> str:
    """Return standard input without surrounding white space.

    Raises:
        ConfigurationError: It is a terminal, or empty.
    """
    text = "" if sys.stdin.isatty() else sys.stdin.buffer.read(_INPUT_CHARS).decode(errors="replace").strip()
    if not text:
        raise ConfigurationError(
            "no token; pass it on standard input, such as `gatehouse issuer-check < token.txt`"
        )
    return text


def _text(value: Any) -> str:
    """Return a value for the table."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_text(names)}" for name, names in value.items()) or "-"
    if isinstance(value, list):
        return " ".join(map(shown, value)) or "-"
    return shown(value) if value not in (None, "") else "-"
