"""Commands that ask something: call, token, policy, config."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from gatehouse.app.caller import call_once, find_method, open_channel, parse_requests
from gatehouse.app.policy import policy_rows, whole_policy
from gatehouse.app.tokens import TokenDesk, decode, open_desk
from gatehouse.cli._fail import OK, REFUSED, UNREACHABLE, USAGE, say
from gatehouse.oauth import TokenRequestFailed
from gatehouse.settings import ConfigurationError, Profile, load_profile, load_settings, masked

User = Annotated[str | None, typer.Option("--as", help="User whose token is sent.")]
Client = Annotated[str | None, typer.Option(help="Client whose token is sent.")]
Scope = Annotated[str | None, typer.Option(help="Scopes to ask for, separated by spaces.")]
Token = Annotated[str | None, typer.Option(help="An access token; - reads it from standard input.")]
TokenArgument = Annotated[str, typer.Argument(help="The token; - reads it from standard input.")]

token_app = typer.Typer(no_args_is_help=True, help="Obtains, decodes, introspects and revokes tokens.")


def _read(token: str) -> str:
    return sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - a sign, no secret


async def _obtain(
    desk: TokenDesk, profile: Profile, user: str | None, client: str | None, scope: str | None, rule: str
) -> str:
    if user is not None:
        secret = profile.passwords.get(user)
        password = (
            secret.get_secret_value() if secret else typer.prompt(f"Password of {user}", hide_input=True)
        )
        everything = " ".join(sorted({s for r in whole_policy().rules.values() for s in r.scopes}))
        return (await desk.of_user(user, password, everything if scope is None else scope)).access_token
    assert client is not None  # noqa: S101 - the callers have looked
    secret_text = desk.client_secret(client)
    try:
        return (await desk.of_client(client, secret_text, rule if scope is None else scope)).access_token
    except TokenRequestFailed as error:
        if scope is not None or "invalid_scope" not in str(error):
            raise
        # The client may not have what the RPC asks for; without it the service says so itself.
        return (await desk.of_client(client, secret_text, "")).access_token


def call(
    service: Annotated[str, typer.Argument(help="users, admin or public.")],
    method: Annotated[str, typer.Argument(help="An RPC of it, such as GetUser.")],
    data: Annotated[str, typer.Option(help="Request in JSON; for a stream a list, or - for lines.")] = "{}",
    user: User = None,
    client: Client = None,
    token: Token = None,
    scope: Scope = None,
    limit: Annotated[int, typer.Option(min=0, help="Ends a stream after so many answers.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 10.0,
) -> int:
    """Calls an RPC with JSON, and prints its answers as JSON, one a line.

    Examples:
      gatehouse call public GetPublicInfo

      gatehouse call users ListUsers --as alice --data '{"page_size": 2}'

      gatehouse call admin GetStats --client gatehouse-worker
    """
    if sum(value is not None for value in (user, client, token)) > 1:
        raise ConfigurationError("--as, --client and --token: give one of them")
    profile, found = load_profile(), find_method(service, method)
    requests = parse_requests(found, sys.stdin.read() if data == "-" else data)
    if not found.client_streaming and len(requests) != 1:
        raise ConfigurationError(f"--data: {method} takes one request, and there are {len(requests)}")
    rule = whole_policy()[f"/{found.containing_service.full_name}/{method}"]

    async def work() -> int:
        sent = _read(token) if token is not None else None
        if user is not None or client is not None:
            async with open_desk(profile) as desk:
                sent = await _obtain(desk, profile, user, client, scope, " ".join(sorted(rule.scopes)))
        async with open_channel(profile, service) as channel:
            outcome = await call_once(channel, found, requests, token=sent, limit=limit, timeout=timeout)
        for answer in outcome.answers:
            typer.echo(json_format.MessageToJson(answer, indent=None, preserving_proto_field_name=True))
        if outcome.code is grpc.StatusCode.OK:
            return OK
        reason = f" ({outcome.reason})" if outcome.reason else ""
        say(f"{outcome.code.name}: {outcome.message}{reason}")
        for name, description in outcome.violations:
            say(f"{name}: {description}")
        if outcome.challenge:
            say(f"www-authenticate: {outcome.challenge}")
        return UNREACHABLE if outcome.code is grpc.StatusCode.UNAVAILABLE else REFUSED

    return asyncio.run(work())


@token_app.command("obtain")
def token_obtain(user: User = None, client: Client = None, scope: Scope = None) -> int:
    """Gets an access token of a user or of a client, and prints it.

    Examples:
      gatehouse token obtain --as alice --scope "read:users admin"
    """
    if (user is None) == (client is None):
        raise ConfigurationError("--as, --client: give one of them")
    profile = load_profile()

    async def work() -> int:
        async with open_desk(profile) as desk:
            typer.echo(await _obtain(desk, profile, user, client, scope, ""))
        return OK

    return asyncio.run(work())


@token_app.command("decode")
def token_decode(token: TokenArgument) -> int:
    """Shows header and claims of a signed token; verifies nothing."""
    typer.echo(json.dumps(decode(_read(token)), indent=2))
    return OK


@token_app.command("introspect")
def token_introspect(token: TokenArgument) -> int:
    """Asks the issuer what a token is worth now (RFC 7662); 1 when it is not active."""

    async def work() -> dict[str, Any]:
        async with open_desk(load_profile()) as desk:
            return dict(await desk.introspect(_read(token)))

    answer = asyncio.run(work())
    typer.echo(json.dumps(answer, indent=2))
    return OK if answer.get("active") is True else REFUSED


@token_app.command("revoke")
def token_revoke(token: TokenArgument, client: Client = None) -> int:
    """Revokes a token (RFC 7009) of a client, or of the console."""

    async def work() -> None:
        async with open_desk(load_profile()) as desk:
            await desk.revoke(_read(token), client)

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
                "shape": row.shape.value,
                "rule": json_format.MessageToDict(row.rule.to_proto(), preserving_proto_field_name=True),
            }
            for row in rows
        ]
        typer.echo(json.dumps(found, indent=2))
        return OK
    if form != "table":
        say(f"--format: {form} is neither table nor json")
        return USAGE
    table = Table("RPC", "shape", "rule")
    for row in rows:
        table.add_row(row.name, row.shape.value, str(row.rule))
    console = Console()
    # Cut lines help nobody who reads them through a pipe.
    (console if console.is_terminal else Console(width=140)).print(table)
    return OK


def config() -> int:
    """Prints the effective settings as JSON, secrets masked.

    Each can be set in the environment: GATEHOUSE_SERVER__USERS_PORT=50051.
    """
    typer.echo(json.dumps(masked(load_settings()), indent=2))
    return OK
