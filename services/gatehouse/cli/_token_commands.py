"""The commands `token`: obtain, exchange, decode, introspect and revoke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from gatehouse.app.profile import load_full_profile
from gatehouse.cli._client_options import ClientOptions, takes_client_options
from gatehouse.cli._errors import ExitCode
from gatehouse.cli._flows import Browser, token_by_flow, token_by_password
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._options import BrowserPort, Client, LoginClient, NoBrowser, Scope, StoredLogin, User
from gatehouse.cli._stored_login import stored_tokens
from gatehouse.cli._token import TokenArgument, issuer_client, obtain_token, password_of, read_token
from gatehouse.client import OAuthClient, StaticToken, TokenExchange
from gatehouse.client.issuer import decode
from gatehouse.client.login_folder import DEFAULT_LOGIN, chosen_login, logins_folder
from gatehouse.client.profile import Profile
from gatehouse.client.registration import open_client, registration_in
from gatehouse.client.sessions import open_client_of
from gatehouse.client.stored_logins import Flow, StoredLogins
from gatehouse.oauth import is_b64token
from gatehouse.settings import ConfigurationError

token_app = typer.Typer(help="Obtain, exchange, decode, introspect and revoke tokens.")


@token_app.command("obtain")
@takes_client_options
def token_obtain(
    user: User = None,
    client: Client = None,
    login: StoredLogin = None,
    scope: Scope = None,
    *,
    browser: Annotated[
        bool, typer.Option("--browser", help="Log in with the browser on this computer.")
    ] = False,
    device: Annotated[bool, typer.Option("--device", help="Log in on another device (RFC 8628).")] = False,
    client_credentials: Annotated[
        bool, typer.Option("--client-credentials", help="Get a token of the client itself.")
    ] = False,
    no_browser: NoBrowser = False,
    port: BrowserPort = 0,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password of --as; - asks, or reads standard input.")
    ] = None,
    options: ClientOptions,
) -> int:
    """Print an access token: that of the stored login, or a new one, which is not stored.

    --as logs a user in with a password, which is a legacy flow, and --client gets a token of a client of the
    profile. The other flows work with any client of any issuer.

    Examples:
      gatehouse token obtain
      gatehouse token obtain --as alice --scope "read:users admin"
      gatehouse token obtain --client gatehouse-worker
      gatehouse token obtain --device --issuer https://id.example.com --client-id cli
    """
    flows: dict[Flow, bool] = {"browser": browser, "device": device, "client_credentials": client_credentials}
    chosen = [flow for flow, is_chosen in flows.items() if is_chosen]
    if sum(value is not None for value in (user, client, login)) + len(chosen) > 1:
        raise ConfigurationError(
            "--as, --client, --login, --browser, --device and --client-credentials: use only one of them"
        )
    profile = load_full_profile()
    if chosen:
        token = token_by_flow(chosen[0], options, profile, scope, Browser(port=port, opens=not no_browser))
    elif user is not None and (options.name_a_client or password_file is not None):
        token = token_by_password(user, password_file, options, profile, scope)
    elif user is not None or client is not None:
        password = "" if user is None else password_of(user, profile)
        token = asyncio.run(obtain_token(profile, user, password, client, scope))
    elif options.name_a_client:
        raise ConfigurationError(
            "--issuer, --client-id: add --browser, --device, --client-credentials or --as, for how to log in"
        )
    else:
        token = asyncio.run(_stored_token(profile, chosen_login(login) or DEFAULT_LOGIN))
    typer.echo(token)
    return ExitCode.OK


@token_app.command("exchange")
@takes_client_options
def token_exchange(
    scope: Annotated[
        str, typer.Option(help="Scopes to request, separated by spaces; a subset of those of the token.")
    ],
    token: Annotated[
        str | None,
        typer.Argument(
            help="Token to exchange; - reads standard input; by default that of the stored login."
        ),
    ] = None,
    client: Annotated[
        str | None, typer.Option(help="Client of the profile that exchanges the token.")
    ] = None,
    login: Annotated[
        str | None,
        typer.Option(
            "--login", help="Stored login whose client exchanges the token; its token is the default."
        ),
    ] = None,
    *,
    options: ClientOptions,
) -> int:
    """Exchange a token for another one (RFC 8693), such as one with fewer scopes for another service.

    Examples:
      gatehouse token exchange --scope read:users --client gatehouse-admin-service
      gatehouse token exchange - --scope read:users --audience users --login worker < token.txt
    """
    profile = load_full_profile()
    name = chosen_login(login) or DEFAULT_LOGIN
    given = None if token is None else read_token(token)
    opened = _client(profile, options, client, login)

    async def exchange() -> str:
        async with opened as exchanger:
            subject = await _stored_token(profile, name) if given is None else given
            if not is_b64token(subject):
                raise ConfigurationError("the token is invalid: it is not a bearer token (RFC 6750)")
            request = TokenExchange(
                exchanger,
                StaticToken(subject),
                scope,
                options.audience or profile.audience,
                options.resource or profile.resource,
            )
            return (await request.request()).access_token

    with issuer_errors(name):
        typer.echo(asyncio.run(exchange()))
    return ExitCode.OK


@token_app.command("decode")
def token_decode(token: TokenArgument) -> int:
    """Print the header and the claims of a JWT, without verifying it.

    Examples:
      gatehouse token obtain --as alice | gatehouse token decode -
    """
    typer.echo(json.dumps(decode(read_token(token)), indent=2))
    return ExitCode.OK


@token_app.command("introspect")
@takes_client_options
def token_introspect(token: TokenArgument, login: LoginClient = None, *, options: ClientOptions) -> int:
    """Introspect a token at the issuer (RFC 7662); exit with 1 if it is not active.

    The client that asks is the API client of the profile, or that of --login or --client-id.

    Examples:
      gatehouse token obtain --as alice | gatehouse token introspect -
      gatehouse token introspect - --issuer https://id.example.com --client-id api < token.txt
    """
    profile = load_full_profile()

    token = read_token(token)
    of_profile = login is None and not options.name_a_client
    opened = None if of_profile else _client(profile, options, None, login)

    async def introspect() -> Mapping[str, Any]:
        if opened is None:
            async with issuer_client(profile) as issuer:
                return await issuer.introspect(token)
        async with opened as client:
            return await client.introspect(token)

    with issuer_errors():
        answer = asyncio.run(introspect())
    typer.echo(json.dumps(answer, indent=2))
    return ExitCode.OK if answer.get("active") is True else ExitCode.REFUSED


@token_app.command("revoke")
@takes_client_options
def token_revoke(
    token: TokenArgument,
    client: Annotated[
        str | None, typer.Option(help="Client of the profile that the token was issued to.")
    ] = None,
    login: LoginClient = None,
    *,
    options: ClientOptions,
) -> int:
    """Revoke a token (RFC 7009).

    The client must be the one that the token was issued to, by default the console client of the profile.

    `gatehouse logout` revokes the tokens of a stored login.

    Examples:
      gatehouse token revoke - < token.txt
      gatehouse token revoke - --client gatehouse-worker < token.txt
      gatehouse token revoke - --issuer https://id.example.com --client-id cli < token.txt
    """
    profile = load_full_profile()

    token = read_token(token)
    of_profile = login is None and not options.name_a_client
    opened = None if of_profile else _client(profile, options, client, login, confidential=False)

    async def revoke() -> None:
        if opened is None:
            async with issuer_client(profile) as issuer:
                await issuer.revoke(token, client)
            return
        async with opened as revoker:
            await revoker.revoke(token)

    with issuer_errors():
        asyncio.run(revoke())
    typer.echo("revoked")
    return ExitCode.OK


async def _stored_token(profile: Profile, name: str) -> str:
    async with stored_tokens(profile, name) as tokens:
        return await tokens.token()


def _client(
    profile: Profile,
    options: ClientOptions,
    client: str | None,
    login: str | None,
    *,
    confidential: bool = True,
) -> AbstractAsyncContextManager[OAuthClient]:
    """Return the client that the options name, that of the profile, or that of a stored login."""
    if client is not None and (options.name_a_client or login is not None):
        raise ConfigurationError("--client, --client-id and --login: use only one of them")
    if client is None and not options.name_a_client:
        name = chosen_login(login) or DEFAULT_LOGIN
        return open_client_of(StoredLogins(logins_folder()), name, proxy=profile.proxy_url)
    if client is not None:
        registration = registration_in(profile, client)
    else:
        registration = options.registration(profile, confidential=confidential)
    secret = options.secret(registration, profile)
    return open_client(registration, secret=secret, proxy=profile.proxy_url)
