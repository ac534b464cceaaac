"""The command `protos`."""

from __future__ import annotations

import typer

from gatehouse.app.protos import protos_folder
from gatehouse.cli._errors import ExitCode


def protos() -> int:
    """Print the folder of the proto files, for grpcurl and other clients.

    Examples:
      grpcurl -import-path "$(gatehouse protos)" -proto gatehouse/users/v1/users.proto describe
    """
    typer.echo(protos_folder())
    return ExitCode.OK
