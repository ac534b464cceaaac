"""Secrets that the user types. They are never echoed, and never arguments."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import typer

from gatehouse.settings import ConfigurationError, read_secret_file

STANDARD_INPUT = Path("-")


def ask_secret(what: str, option: str, file: Path | None = None) -> str:
    """Return a secret from a file, or from the user.

    Args:
        what: Name of the secret, such as `Password of alice`.
        option: Option that names a file, for errors.
        file: The file; `-` for standard input, None to ask in the terminal.

    Raises:
        ConfigurationError: The file cannot be used, or there is no terminal to ask in.
    """
    if file is not None and file != STANDARD_INPUT:
        return read_secret_file(file, option)
    if sys.stdin.isatty():
        try:
            secret = getpass.getpass(f"{what}: ", stream=sys.stderr)
        except EOFError:
            raise typer.Abort from None
    elif file is None:
        raise ConfigurationError(
            f"{what[:1].lower()}{what[1:]}: standard input is not a terminal; name a file with {option}"
        )
    else:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise ConfigurationError(f"{what[:1].lower()}{what[1:]}: it is empty")
    return secret
