"""The command `policy`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from google.protobuf import json_format

from gatehouse.app.policy import policy_rows
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._output import print_table


def policy(
    output_format: Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")] = (
        "table"
    ),
) -> int:
    """Print the access rule of each RPC.

    Examples:
      gatehouse policy
      gatehouse policy --format json
    """
    rows = policy_rows()
    if output_format == "json":
        rules = [
            {
                "rpc": row.name,
                "type": row.rpc_type.value,
                "rule": json_format.MessageToDict(row.rule.to_proto(), preserving_proto_field_name=True),
            }
            for row in rows
        ]
        typer.echo(json.dumps(rules, indent=2))
    else:
        print_table(("RPC", "type", "rule"), [(row.name, row.rpc_type.value, str(row.rule)) for row in rows])
    return ExitCode.OK
