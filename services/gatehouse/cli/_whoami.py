"""The command `whoami`."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from gatehouse.cli._errors import ExitCode
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._options import LoginName
from gatehouse.cli._output import print_table
from gatehouse.client import LoginRequired
from gatehouse.client.identity import Identity, identify
from gatehouse.client.login_folder import DEFAULT_LOGIN, chosen_login, logins_folder
from gatehouse.client.profile import load_profile
from gatehouse.client.sessions import open_login
from gatehouse.client.stored_logins import StoredLogins
from gatehouse.settings import ConfigurationError


def whoami(
    name: LoginName = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="List the names of all logins, without renewing them.")
    ] = False,
    output_format: Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")] = (
        "table"
    ),
) -> int:
    """Print the user of a stored login, its scopes and roles, and how long its token is valid.

    An access token that expires soon is renewed, so this fails if the issuer has ended the login.

    Examples:
      gatehouse whoami
      gatehouse whoami work --format json
      gatehouse whoami --all
    """
    logins = StoredLogins(logins_folder())
    if every:
        if name is not None:
            raise ConfigurationError("--all and the name of a login: use only one of them")
        _print_all(logins, output_format)
        return ExitCode.OK
    name = chosen_login(name) or DEFAULT_LOGIN
    with issuer_errors(name):
        found = asyncio.run(_find(logins, name))
    if output_format == "json":
        typer.echo(json.dumps({"login": name} | asdict(found), indent=2))
        return ExitCode.OK
    minutes, seconds = divmod(found.expires_in, 60)
    then = "then it is renewed" if found.renewable else "then the login ends"
    rows = {
        "login": name,
        "issuer": found.issuer,
        "client": found.client,
        "user": found.user or "(none: the client itself)",
        "subject": found.subject or "(the access token is opaque)",
        "scopes": " ".join(found.scopes) or "(none)",
        "roles": " ".join(found.roles) or "(none)",
        "access token": f"valid for {minutes} min {seconds} s, {then}",
        "stored in": "the keyring of the system"
        if found.stored_in == "keyring"
        else str(logins.tokens_file(name)),
    }
    print_table(("field", "value"), list(rows.items()))
    return ExitCode.OK


async def _find(logins: StoredLogins, name: str) -> Identity:
    async with open_login(logins, name, proxy=load_profile().proxy_url) as (tokens, store):
        await tokens.token()
        login = store.load()
    if login is None:  # another command has logged out
        raise LoginRequired
    return identify(logins.require(name), login, time.time)


def _print_all(logins: StoredLogins, output_format: str) -> None:
    rows = [
        (name, login.registration.issuer, login.registration.client_id, login.user)
        for name, login in logins.usable().items()
    ]
    if output_format == "json":
        keys = ("login", "issuer", "client", "user")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
    else:
        print_table(("login", "issuer", "client", "user"), rows)
