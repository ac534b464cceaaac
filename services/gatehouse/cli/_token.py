"""Tokens of the users and clients of a profile, and tokens on the command line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from gatehouse.app.policy import policy_scopes
from gatehouse.cli._errors import print_error
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._prompt import ask_secret
from gatehouse.client.issuer import IssuerClient, open_issuer_client
from gatehouse.client.password import LEGACY
from gatehouse.client.profile import ADD_TO_PROFILE, Profile
from gatehouse.settings import ConfigurationError

TokenArgument = Annotated[str, typer.Argument(help="The token; - reads it from standard input.")]


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
    profile: Profile,
    user: str | None,
    password: str,
    client: str | None,
    scope: str | None,
    needed: Sequence[str] = (),
) -> str:
    """Return a token of a user or of a client.

    Args:
        profile: Secrets of clients.
        user: User name, or None for a client.
        password: Password of the user.
        client: Client id, if there is no user.
        scope: Scopes to request. If it is None, a user gets all scopes of the policy that the user may have,
            a client gets those of `needed`.
        needed: Scopes that the RPC needs.
    """
    async with issuer_client(profile) as issuer:
        if user is not None:
            everything = " ".join(sorted(policy_scopes()))
            response = await issuer.user_token(user, password, everything if scope is None else scope)
        elif scope is not None:
            response = await issuer.client_token(client or "", scope)
        else:
            response = await issuer.client_token_for(client or "", needed)
    return response.access_token


def password_of(user: str, profile: Profile, file: Path | None = None) -> str:
    """Return the password of a user: that of the file or the profile, otherwise ask.

    Raises:
        ConfigurationError: There is no terminal to ask in.
    """
    secret = profile.passwords.get(user) if file is None else None
    if secret is not None:
        return secret.get_secret_value()
    if file is None and not sys.stdin.isatty():
        raise ConfigurationError(
            f"{user}: no password in the profile, and standard input is not a terminal; {ADD_TO_PROFILE} "
            "under `passwords`"
        )
    password = ask_secret(f"Password of {user}", "--password-file", file)
    print_error(f"warning: {LEGACY}")
    return password
