"""The command line: `gatehouse`. It has no logic; each command is one call into the rooms below."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from gatehouse.cli._fail import EXIT_CODES, INTERRUPTED, REFUSED, USAGE, explain, say
from gatehouse.settings import wants_traceback

__all__ = ["main"]

# In the order of the help: module and attribute of each command.
_COMMANDS = {
    "serve": "gatehouse.cli._run:serve",
    "migrate": "gatehouse.cli._run:migrate",
    "healthcheck": "gatehouse.cli._run:healthcheck",
    "call": "gatehouse.cli._call:call",
    "token": "gatehouse.cli._ask:token_app",
    "policy": "gatehouse.cli._ask:policy",
    "config": "gatehouse.cli._ask:config",
}
# Optional packages add commands through this entry point group.
_ENTRY_POINTS = "gatehouse.commands"
# The base of all usage errors; typer shows it under no name of its own.
_USAGE_ERROR: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")


def _find_commands() -> dict[str, metadata.EntryPoint]:
    """Return every command by its name: our own, then those of optional packages."""
    own = {name: metadata.EntryPoint(name, value, _ENTRY_POINTS) for name, value in _COMMANDS.items()}
    found = metadata.entry_points(group=_ENTRY_POINTS)
    # The metadata names the test bed also where its package was left out.
    return own | {point.name: point for point in found if find_spec(point.module.partition(".")[0])}


def make_app(only: str | None = None) -> typer.Typer:
    """Makes the application.

    Args:
        only: The one command that will be used, so that it does not pay for what the others import.
    """
    app = typer.Typer(
        name="gatehouse",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="OAuth2 authorization in gRPC: three services, their issuer and their policy.",
        epilog=EXIT_CODES,
    )
    commands = _find_commands()
    for name, command in commands.items():
        if only not in commands or only == name:
            function = command.load()
            if isinstance(function, typer.Typer):
                app.add_typer(function, name=name)
            else:
                app.command(name)(function)

    @app.callback(invoke_without_command=True)
    def options(
        *, version: Annotated[bool, typer.Option("--version", help="Prints the version.")] = False
    ) -> None:
        if version:
            typer.echo(metadata.version("gatehouse"))
            raise typer.Exit

    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code.

    Args:
        arguments: What stands after `gatehouse`; those of the process when None.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = make_app(given[0] if given else None)(given, standalone_mode=False)
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        say(f"{error.format_message()}; see `gatehouse --help`")
        code = USAGE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort:
        say("nothing was entered")
        code = REFUSED
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = REFUSED
    except Exception as error:
        if wants_traceback():
            raise
        text, code = explain(error)
        say(text)
    sys.exit(code if isinstance(code, int) else 0)
