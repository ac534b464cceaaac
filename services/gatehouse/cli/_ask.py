"""Commands that ask something: token, policy, config."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gatehouse.app.policy import load_policy, policy_rows
from gatehouse.app.profile import load_full_profile
from gatehouse.app.services import settings_model
from gatehouse.cli._fail import OK, REFUSED, USAGE, say
from gatehouse.client.issuer import IssuerClient, decode, open_issuer_client
from gatehouse.client.profile import Profile
from gatehouse.oauth import TokenRequestFailed
from gatehouse.settings import (
    ConfigurationError,
    describe_settings,
    load_settings,
    mask_settings,
    setting_values,
)

User = Annotated[str | None, typer.Option("--as", help="User whose token is sent.")]
Client = Annotated[str | None, typer.Option(help="Client whose token is sent.")]
Scope = Annotated[str | None, typer.Option(help="Scopes to ask for, separated by spaces.")]
Token = Annotated[str | None, typer.Option(help="An access token; - reads it from standard input.")]
TokenArgument = Annotated[str, typer.Argument(help="The token; - reads it from standard input.")]

token_app = typer.Typer(no_args_is_help=True, help="Obtains, decodes, introspects and revokes tokens.")


def read_token(token: str) -> str:
    """Returns a token of the command line; - reads it from standard input."""
    return sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - a sign, no secret


def _password(profile: Profile, user: str) -> str:
    secret = profile.passwords.get(user)
    if secret is not None:
        return secret.get_secret_value()
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{user}: its password is not in the profile, and nobody can be asked here; add it under "
            "`passwords` of the file that GATEHOUSE_PROFILE names"
        )
    entered: str = typer.prompt(f"Password of {user}", hide_input=True)
    return entered


async def obtain(
    issuer: IssuerClient, profile: Profile, user: str | None, client: str | None, scope: str | None, rule: str
) -> str:
    """Gets the token of a user, or of a client.

    Args:
        issuer: Asks the issuer.
        profile: Holds secrets and passwords.
        user: The user, or None.
        client: The client, when there is no user.
        scope: Scopes to ask for; None asks for all of a user, and for `rule` of a client.
        rule: Scopes that the RPC needs.
    """
    if user is not None:
        password = _password(profile, user)
        everything = " ".join(sorted({s for r in load_policy().rules.values() for s in r.scopes}))
        return (await issuer.of_user(user, password, everything if scope is None else scope)).access_token
    assert client is not None  # noqa: S101 - the callers have looked
    secret_text = issuer.client_secret(client)
    try:
        return (await issuer.of_client(client, secret_text, rule if scope is None else scope)).access_token
    except TokenRequestFailed as error:
        if scope is not None or "invalid_scope" not in str(error):
            raise
        # The client may not have what the RPC asks for; without it the service says so itself.
        return (await issuer.of_client(client, secret_text, "")).access_token


@token_app.command("obtain")
def token_obtain(user: User = None, client: Client = None, scope: Scope = None) -> int:
    """Gets an access token of a user or of a client, and prints it.

    Examples:
      gatehouse token obtain --as alice --scope "read:users admin"

      gatehouse token obtain --client gatehouse-worker
    """
    if (user is None) == (client is None):
        raise ConfigurationError("--as, --client: give one of them")
    profile = load_full_profile()

    async def work() -> int:
        async with open_issuer_client(profile) as issuer:
            typer.echo(await obtain(issuer, profile, user, client, scope, ""))
        return OK

    return asyncio.run(work())


@token_app.command("decode")
def token_decode(token: TokenArgument) -> int:
    """Shows header and claims of a signed token; verifies nothing.

    Examples:
      gatehouse token obtain --as alice | gatehouse token decode -
    """
    typer.echo(json.dumps(decode(read_token(token)), indent=2))
    return OK


@token_app.command("introspect")
def token_introspect(token: TokenArgument) -> int:
    """Asks the issuer what a token is worth now (RFC 7662); 1 when it is not active.

    Examples:
      gatehouse token obtain --as alice | gatehouse token introspect -
    """

    async def work() -> dict[str, Any]:
        async with open_issuer_client(load_full_profile()) as issuer:
            return dict(await issuer.introspect(read_token(token)))

    answer = asyncio.run(work())
    typer.echo(json.dumps(answer, indent=2))
    return OK if answer.get("active") is True else REFUSED


@token_app.command("revoke")
def token_revoke(token: TokenArgument, client: Client = None) -> int:
    """Revokes a token (RFC 7009) of a client, or of the console.

    Examples:
      gatehouse token revoke - < token.txt

      gatehouse token revoke - --client gatehouse-worker < token.txt
    """

    async def work() -> None:
        async with open_issuer_client(load_full_profile()) as issuer:
            await issuer.revoke(read_token(token), client)

    asyncio.run(work())
    typer.echo("revoked")
    return OK


def policy(form: Annotated[str, typer.Option("--format", help="table or json.")] = "table") -> int:
    """Prints what each RPC demands.

    Examples:
      gatehouse policy

      gatehouse policy --format json
    """
    rows = policy_rows()
    if form == "json":
        found = [
            {
                "rpc": row.name,
                "rpc_type": row.rpc_type.value,
                "rule": json_format.MessageToDict(row.rule.to_proto(), preserving_proto_field_name=True),
            }
            for row in rows
        ]
        typer.echo(json.dumps(found, indent=2))
        return OK
    if form != "table":
        say(f"--format: {form} is neither table nor json")
        return USAGE
    table = Table("RPC", "type", "rule")
    for row in rows:
        table.add_row(row.name, row.rpc_type.value, str(row.rule))
    print_table(table)
    return OK


def config(
    *,
    sources: Annotated[
        bool, typer.Option("--sources", help="A table that says of each where it comes from.")
    ] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="A table of all settings, their defaults and meaning.")
    ] = False,
) -> int:
    """Prints the effective settings as JSON, secrets masked.

    Each can be set in the environment, with `__` between levels; a secret also in a file of the folder that
    GATEHOUSE_SECRETS_DIR names.

    Examples:
      gatehouse config

      GATEHOUSE_SERVER__USERS_PORT=50061 gatehouse config --sources

      gatehouse config --describe
    """
    if describe:
        table = Table("setting", "default", "meaning")
        for row in describe_settings(settings_model()):
            table.add_row(*map(escape, row))
        print_table(table)
        return OK
    settings = load_settings(settings_model())
    if not sources:
        typer.echo(json.dumps(mask_settings(settings), indent=2))
        return OK
    table = Table("setting", "value", "from")
    for name, value, origin in setting_values(settings):
        table.add_row(name, json.dumps(value), origin)
    print_table(table)
    return OK


def print_table(table: Table) -> None:
    """Prints a table, as wide as the terminal; through a pipe no line is cut."""
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
