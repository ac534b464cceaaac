"""The command line: `gatehouse`. Each command is a thin call into the packages below."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Annotated

import typer

from gatehouse.cli._errors import MEANINGS, ExitCode, explain, print_error
from gatehouse.cli._help import set_help, tables
from gatehouse.cli._output import discard_output, is_colored, set_up_streams
from gatehouse.cli._program import program_name
from gatehouse.settings import wants_traceback

# `ExitCode`, `print_error` and `program_name` are for the commands of optional packages.
__all__ = ["ExitCode", "main", "print_error", "program_name"]

# Module and attribute of each command, in the order of the help.
_COMMANDS = {
    "serve": "gatehouse.cli._serve:serve",
    "migrate": "gatehouse.cli._migrate:migrate",
    "doctor": "gatehouse.cli._doctor:doctor",
    "issuer-check": "gatehouse.cli._issuer_check:issuer_check",
    "healthcheck": "gatehouse.cli._health:healthcheck",
    "call": "gatehouse.cli._call:call",
    "login": "gatehouse.cli._login:login",
    "logout": "gatehouse.cli._login:logout",
    "whoami": "gatehouse.cli._whoami:whoami",
    "token": "gatehouse.cli._token_commands:token_app",
    "policy": "gatehouse.cli._policy:policy",
    "protos": "gatehouse.cli._protos:protos",
    "config": "gatehouse.cli._config:config",
}
_VARIABLES = {
    "GATEHOUSE_PROFILE": "JSON file about a running system: the profile",
    "GATEHOUSE_LOGIN": "name of the stored login to use",
    "GATEHOUSE_SECRETS_DIR": "directory with settings as files",
}
# Optional packages add commands through this entry point group.
_ENTRY_POINTS = "gatehouse.commands"


def make_app(only: str | None = None) -> typer.Typer:
    """Return the application.

    Args:
        only: The only command to load, so that it does not wait for the imports of the others; all commands
            if there is none of this name.
    """
    plain = not is_colored()  # the help of typer has colors, or no boxes either
    app = typer.Typer(
        name="gatehouse",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None if plain else "rich",
        help="OAuth2 authorization in gRPC: run the services, call them, and inspect tokens and policy.",
        epilog=tables(MEANINGS, _VARIABLES, plain=plain),
    )
    for name, command in _find_commands(only).items():
        function = command.load()
        if isinstance(function, typer.Typer):
            app.add_typer(function, name=name)
        else:
            app.command(name)(function)
    set_help(app, plain=plain)

    @app.callback(invoke_without_command=True)
    def options(
        *, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
    ) -> None:
        if version:
            typer.echo(metadata.version("gatehouse"))
            raise typer.Exit

    return app


def _find_commands(only: str | None) -> dict[str, metadata.EntryPoint]:
    """Return our commands, then those of optional packages, by name; see make_app."""
    own = {name: metadata.EntryPoint(name, value, _ENTRY_POINTS) for name, value in _COMMANDS.items()}
    if only in own:
        return {only: own[only]}
    found = metadata.entry_points(group=_ENTRY_POINTS)
    # The metadata names the commands of the test bed also if its package is not installed.
    commands = own | {point.name: point for point in found if find_spec(point.module.partition(".")[0])}
    return {only: commands[only]} if only in commands else commands


def main(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    Args:
        arguments: Arguments after `gatehouse`; those of the process if None.
    """
    set_up_streams()
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result = make_app(only=arguments[0])(arguments, prog_name="gatehouse", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else ExitCode.OK
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except typer.Abort:
        print_error("no input")
        code = ExitCode.REFUSED
    except BrokenPipeError:
        discard_output()
        code = ExitCode.REFUSED
    except Exception as error:
        if wants_traceback():
            raise
        message, code = explain(error)
        print_error(message)
    sys.exit(code)
