"""The command `config`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gatehouse.app.services import settings_model
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._output import print_table
from gatehouse.settings import (
    ConfigurationError,
    describe_settings,
    load_settings,
    mask_settings,
    setting_values,
)


def config(
    *,
    sources: Annotated[
        bool, typer.Option("--sources", help="List all settings with their values and origins.")
    ] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="List all settings with their defaults and meaning.")
    ] = False,
) -> int:
    """Print the effective settings as JSON, with masked secrets.

    Set them in the environment, with `__` between levels. A secret can also be a file in the directory that
    GATEHOUSE_SECRETS_DIR names.

    Examples:
      gatehouse config
      GATEHOUSE_USERS__PORT=50061 gatehouse config --sources
      gatehouse config --describe
    """
    if describe and sources:
        raise ConfigurationError("--sources and --describe: use only one of them")
    if describe:
        print_table(("setting", "default", "meaning"), describe_settings(settings_model()))
        return ExitCode.OK
    settings = load_settings(settings_model())
    if sources:
        rows = [(row.name, row.origin, json.dumps(row.value)) for row in setting_values(settings)]
        print_table(("setting", "origin", "value"), rows)
    else:
        typer.echo(json.dumps(mask_settings(settings), indent=2))
    return ExitCode.OK
