"""The command line: `gatehouse`. It has no logic; each command is one call into the rooms below."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from gatehouse.cli import _ask, _call, _run
from gatehouse.cli._fail import EXIT_CODES, INTERRUPTED, REFUSED, USAGE, explain, say
from gatehouse.settings import wants_traceback

__all__ = ["main"]

# The base of all usage errors; typer shows it under no name of its own.
_USAGE_ERROR: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")


def make_app() -> typer.Typer:
    """Makes the application."""
    app = typer.Typer(
        name="gatehouse",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="OAuth2 authorization in gRPC: three services, their issuer and their policy.",
        epilog=EXIT_CODES,
    )
    for command in (
        _run.serve,
        _run.migrate,
        _run.issuer,
        _call.call,
        _ask.policy,
        _run.healthcheck,
        _ask.config,
    ):
        app.command()(command)
    app.add_typer(_ask.token_app, name="token")

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
    try:
        code = make_app()(arguments, standalone_mode=False)
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
