"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

User = Annotated[str | None, typer.Option("--as", help="User whose token to use.")]
Client = Annotated[str | None, typer.Option(help="Client whose token to use.")]
LoginName = Annotated[
    str | None, typer.Argument(help="Name of the login; GATEHOUSE_LOGIN, or `default`, by default.")
]
StoredLogin = Annotated[
    str | None,
    typer.Option(
        "--login", help="Stored login whose token to use; GATEHOUSE_LOGIN, or `default`, by default."
    ),
]
LoginClient = Annotated[str | None, typer.Option("--login", help="Stored login whose client to use.")]
Scope = Annotated[str | None, typer.Option(help="Scopes to request, separated by spaces.")]
NoBrowser = Annotated[
    bool, typer.Option("--no-browser", help="Print the URL of the login page instead of opening it.")
]
BrowserPort = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Local port for the redirect; 0 for a free one.")
]
ReadyFile = Annotated[
    Path | None, typer.Option(help="File to write the ports to, as JSON, when all servers listen.")
]
