"""Exit codes, and the one line that says why a command failed."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from pathlib import Path
from typing import Any

import typer

from gatehouse.cli._program import name_program


class ExitCode(IntEnum):
    """Exit codes of all commands."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERNAL = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.REFUSED: "the request was refused, or a check failed",
    ExitCode.USAGE: "the command line or the configuration is invalid",
    ExitCode.UNREACHABLE: "something that the command needs is unreachable",
    ExitCode.INTERNAL: "internal error; GATEHOUSE_TRACEBACK=1 prints the traceback",
    ExitCode.INTERRUPTED: "interrupted",
}


class CommandError(Exception):
    """A command failed.

    Args:
        message: One line that says what is wrong and how to fix it.
        exit_code: Exit code of the process.
    """

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: Exception) -> tuple[str, int]:
    """Return one line that says why a command failed, and its exit code.

    An error with an attribute `exit_code` is expected, and its message and notes (PEP 678) are for the user.
    The message of any other error may contain a secret, so only its type and place are shown.
    """
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return _usage(error) if isinstance(error, typer.TyperException) else f"{error}{notes}", code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        reason = error.strerror.lower() if error.strerror else error
        return f"{place}{reason}{notes}", ExitCode.UNREACHABLE
    *_, last = traceback.extract_tb(error.__traceback__)
    place = f"{Path(last.filename).name}:{last.lineno}"
    return (
        f"internal error: {type(error).__name__} at {place}; set GATEHOUSE_TRACEBACK=1 to see the traceback",
        ExitCode.INTERNAL,
    )


def _usage(error: Any) -> str:
    """Return the message of an invalid command line; typer has no public class with these attributes."""
    message = error.format_message().removesuffix(".").replace("Value error, ", "")
    if message.startswith("Got unexpected extra argument"):  # it repeats the argument, which can be a token
        message = "unexpected argument"
    command = error.ctx.command_path if error.ctx else "gatehouse"
    return f"{message[:1].lower()}{message[1:]}; see `{command} --help`"


def print_error(message: str) -> None:
    """Print one line to standard error. Commands in backticks become the ones that the user can run."""
    line = name_program(" ".join(message.split()))
    sys.stderr.write(f"gatehouse: {line}\n")
