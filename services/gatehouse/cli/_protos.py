"""The command `protos`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatehouse.app.protos import descriptor_set
from gatehouse.cli._errors import ExitCode
from gatehouse.settings import ConfigurationError


def protos(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "gatehouse.protoset"
    ),
) -> int:
    """Write the protos of all services as a descriptor set, for grpcurl and other clients.

    Examples:
      gatehouse protos && grpcurl -protoset gatehouse.protoset describe
    """
    try:
        output.write_bytes(descriptor_set().SerializeToString(deterministic=True))
    except OSError as error:
        raise ConfigurationError(f"{output}: cannot be written ({error.strerror})") from None
    typer.echo(output)
    return ExitCode.OK
