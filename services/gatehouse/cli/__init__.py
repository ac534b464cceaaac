"""The command line: `gatehouse`. It has no logic; each command is one call into the rooms below."""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata
from typing import Annotated, Any

import typer

from gatehouse.cli._fail import EXIT_CODES, INTERRUPTED, REFUSED, USAGE, explain, say
from gatehouse.settings import wants_traceback

__all__ = ["main"]

# In the order of the help: where each is, by module and name.
_COMMANDS = {
    "demo": ("_demo", "demo"),
    "serve": ("_run", "serve"),
    "migrate": ("_run", "migrate"),
    "issuer": ("_run", "issuer"),
    "call": ("_call", "call"),
    "policy": ("_ask", "policy"),
    "tour": ("_demo", "tour"),
    "trace": ("_demo", "trace"),
    "healthcheck": ("_run", "healthcheck"),
    "config": ("_ask", "config"),
    "token": ("_ask", "token_app"),
}
# The base of all usage errors; typer shows it under no name of its own.
_USAGE_ERROR: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")


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
    for name, (module, attribute) in _COMMANDS.items():
        if only not in _COMMANDS or only == name:
            command = getattr(import_module(f"gatehouse.cli.{module}"), attribute)
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name)
            else:
                app.command(name)(command)

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
