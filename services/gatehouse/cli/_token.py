"""The commands `token`: obtain, decode, introspect and revoke."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from gatehouse.app.policy import load_policy
from gatehouse.app.profile import load_full_profile
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._options import Client, Scope, StoredLogin, User
from gatehouse.cli._stored_login import stored_tokens
from gatehouse.client.issuer import IssuerClient, decode, open_issuer_client
from gatehouse.client.login_folder import DEFAULT_LOGIN, chosen_login
from gatehouse.client.profile import ADD_TO_PROFILE, Profile
from gatehouse.settings import ConfigurationError

TokenArgument = Annotated[str, typer.Argument(help="The token; - reads it from standard input.")]

token_app = typer.Typer(help="Obtain, decode, introspect and revoke tokens.")


def read_token(token: str) -> str:
    """Return a token from the command line; `-` reads it from standard input.

    Raises:
        ConfigurationError: It has characters that no token has, and for which gRPC never ends the call.
    """
    token = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - not a secret
    if not (token.isascii() and token.isprintable()):
        raise ConfigurationError("the token is invalid: it may only have printable ASCII characters")
    return token


@asynccontextmanager
async def issuer_client(profile: Profile) -> AsyncIterator[IssuerClient]:
    """Open a client for the issuer of a profile.

    Raises:
        CommandError: The issuer refuses or is unavailable.
    """
    with issuer_errors():
        async with open_issuer_client(profile) as client:
            yield client


async def obtain_token(
    profile: Profile, user: str | None, client: str | None, scope: str | None, needed: Sequence[str] = ()
) -> str:
    """Return a token of a user or of a client.

    Args:
        profile: Passwords of users and secrets of clients.
        user: User name, or None for a client.
        client: Client id, if there is no user.
        scope: Scopes to request. If it is None, a user gets all scopes of the policy that the user may have,
            a client gets those of `needed`.
        needed: Scopes that the RPC needs.
    """
    password = "" if user is None else _password(profile, user)
    async with issuer_client(profile) as issuer:
        if user is not None:
            everything = {scope for rule in load_policy().rules.values() for scope in rule.scopes}
            response = await issuer.user_token(
                user, password, " ".join(sorted(everything)) if scope is None else scope
            )
        elif scope is not None:
            response = await issuer.client_token(client or "", scope)
        else:
            response = await issuer.client_token_for(client or "", needed)
    return response.access_token


def _password(profile: Profile, user: str) -> str:
    secret = profile.passwords.get(user)
    if secret is not None:
        return secret.get_secret_value()
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{user}: no password in the profile, and standard input is not a terminal; {ADD_TO_PROFILE} "
            "under `passwords`"
        )
    password: str = typer.prompt(f"Password of {user}", hide_input=True, err=True)
    return password


@token_app.command("obtain")
def token_obtain(
    user: User = None, client: Client = None, login: StoredLogin = None, scope: Scope = None
) -> int:
    """Print an access token: that of the stored login, or a new one of a user or of a client.

    Examples:
      gatehouse token obtain
      gatehouse token obtain --as alice --scope "read:users admin"
      gatehouse token obtain --client gatehouse-worker
    """
    if sum(value is not None for value in (user, client, login)) > 1:
        raise ConfigurationError("--as, --client and --login: give one of them")
    profile = load_full_profile()
    if user is None and client is None:
        name = chosen_login(login) or DEFAULT_LOGIN
        typer.echo(asyncio.run(_stored_token(profile, name)))
    else:
        typer.echo(asyncio.run(obtain_token(profile, user, client, scope)))
    return ExitCode.OK


async def _stored_token(profile: Profile, name: str) -> str:
    async with stored_tokens(profile, name) as tokens:
        return await tokens.token()


@token_app.command("decode")
def token_decode(token: TokenArgument) -> int:
    """Print the header and the claims of a JWT, without verifying it.

    Examples:
      gatehouse token obtain --as alice | gatehouse token decode -
    """
    typer.echo(json.dumps(decode(read_token(token)), indent=2))
    return ExitCode.OK


@token_app.command("introspect")
def token_introspect(token: TokenArgument) -> int:
    """Introspect a token at the issuer (RFC 7662); exit with 1 if it is not active.

    Examples:
      gatehouse token obtain --as alice | gatehouse token introspect -
    """

    async def introspect() -> Mapping[str, Any]:
        async with issuer_client(load_full_profile()) as issuer:
            return await issuer.introspect(read_token(token))

    answer = asyncio.run(introspect())
    typer.echo(json.dumps(answer, indent=2))
    return ExitCode.OK if answer.get("active") is True else ExitCode.REFUSED


@token_app.command("revoke")
def token_revoke(token: TokenArgument, client: Client = None) -> int:
    """Revoke a token (RFC 7009) that was issued to a client, or to the console.

    Examples:
      gatehouse token revoke - < token.txt
      gatehouse token revoke - --client gatehouse-worker < token.txt
    """

    async def revoke() -> None:
        async with issuer_client(load_full_profile()) as issuer:
            await issuer.revoke(read_token(token), client)

    asyncio.run(revoke())
    typer.echo("revoked")
    return ExitCode.OK
