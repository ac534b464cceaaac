"""The command line: `gatehouse`. It has no logic; each command is one call into the rooms below."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from gatehouse.cli import _run
from gatehouse.cli._fail import EXIT_CODES, INTERRUPTED, REFUSED, USAGE, explain, say
from gatehouse.settings import wants_traceback

__all__ = ["main"]

# The base of all usage errors; typer shows it under no name of its own.
_USAGE_ERROR: Any = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")


def make_app(*, probe: bool = False) -> typer.Typer:
    """Makes the application.

    Args:
        probe: Only `healthcheck`, which runs every few seconds and must not pay for what the others import.
    """
    app = typer.Typer(
        name="gatehouse",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="OAuth2 authorization in gRPC: three services, their issuer and their policy.",
        epilog=EXIT_CODES,
    )
    if probe:
        app.command()(_run.healthcheck)
    else:
        _add_commands(app)

    @app.callback(invoke_without_command=True)
    def options(
        *, version: Annotated[bool, typer.Option("--version", help="Prints the version.")] = False
    ) -> None:
        if version:
            typer.echo(metadata.version("gatehouse"))
            raise typer.Exit

    return app


def _add_commands(app: typer.Typer) -> None:
    from gatehouse.cli import _ask, _call, _demo  # noqa: PLC0415 - a probe does without

    for command in (
        _demo.demo,
        _run.serve,
        _run.migrate,
        _run.issuer,
        _call.call,
        _ask.policy,
        _demo.tour,
        _demo.trace,
        _run.healthcheck,
        _ask.config,
    ):
        app.command()(command)
    app.add_typer(_ask.token_app, name="token")


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code.

    Args:
        arguments: What stands after `gatehouse`; those of the process when None.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = make_app(probe=given[:1] == ["healthcheck"])(given, standalone_mode=False)
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
