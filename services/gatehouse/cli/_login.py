"""The commands `login` and `logout`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gatehouse.cli._client_options import ClientOptions, takes_client_options
from gatehouse.cli._errors import ExitCode, print_error
from gatehouse.cli._flows import Browser, request_by_flow, with_scope
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._options import BrowserPort, LoginName, NoBrowser, Scope
from gatehouse.client.issuer import decode
from gatehouse.client.keyring_store import keyring_problem
from gatehouse.client.login_folder import DEFAULT_LOGIN, chosen_login, logins_folder
from gatehouse.client.profile import load_profile, profile_file
from gatehouse.client.sessions import keep_login, log_out, name_of_user
from gatehouse.client.stored_logins import Flow, Place, StoredLogin, StoredLogins
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from gatehouse.settings import ConfigurationError


@takes_client_options
def login(
    name: LoginName = None,
    *,
    device: Annotated[bool, typer.Option("--device", help="Log in on another device (RFC 8628).")] = False,
    client_credentials: Annotated[
        bool, typer.Option("--client-credentials", help="Log in as the client itself, without a user.")
    ] = False,
    no_browser: NoBrowser = False,
    port: BrowserPort = 0,
    scope: Scope = None,
    options: ClientOptions,
) -> int:
    """Log in to an issuer, and store the login for the other commands.

    A user logs in with the browser on this computer. The issuer and the client are those of the login of this
    name, or of the profile. A login without a name is called `default`. The tokens are stored in the keyring
    of the system if that works, otherwise in a file that only you can read.

    Examples:
      gatehouse login
      gatehouse login --device
      gatehouse login work --issuer https://id.example.com --client-id cli
      gatehouse login worker --client-credentials --client-id gatehouse-worker
    """
    if device and client_credentials:
        raise ConfigurationError("--device and --client-credentials: use only one of them")
    name = chosen_login(name) or DEFAULT_LOGIN
    logins, profile = StoredLogins(logins_folder()), load_profile()
    with issuer_errors(name):
        stored = None if profile_file() else logins.usable().get(name)
        flow: Flow = "device" if device else "client_credentials" if client_credentials else "browser"
        if stored is not None and not (device or client_credentials or options.name_a_client):
            flow = stored.flow
        if client_credentials and options.client_id is None and stored is None:
            raise ConfigurationError("--client-credentials: name the client with --client-id")
        registration = options.registration(
            profile,
            stored.registration if stored else None,
            scope=scope,
            confidential=flow == "client_credentials",
        )
        if flow != "client_credentials":
            registration = with_scope(registration, profile)
        secret = options.secret(registration, profile)
        response = asyncio.run(
            request_by_flow(registration, flow, secret, profile, Browser(port=port, opens=not no_browser))
        )
        problem = keyring_problem(f"{logins.keyring_entry(name)} (trial)")
        place: Place = "file" if problem else "keyring"
        warned = any(login.place == "file" for login in logins.usable().values())
        kept = StoredLogin(registration=registration, flow=flow, place=place, user=_user(response, flow))
        asyncio.run(keep_login(logins, name, kept, response, secret))
    if problem and not warned:
        print_error(
            f"warning: the keyring of the system cannot be used ({problem}); the tokens are in "
            f"{logins.tokens_file(name)}, which only you can read"
        )
    typer.echo(f"logged in to {registration.issuer} as {kept.user or registration.client_id} (login {name})")
    if flow != "client_credentials" and response.refresh_token is None:
        print_error(
            f"warning: the issuer gave no refresh token, so the login ends in {response.expires_in:.0f} s; "
            "some issuers need offline_access in --scope"
        )
    return ExitCode.OK


def logout(
    name: LoginName = None,
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Delete the login without revoking it at the issuer.")
    ] = False,
) -> int:
    """Revoke a login at its issuer (RFC 7009), then delete it.

    Examples:
      gatehouse logout
      gatehouse logout work --local
    """
    name = chosen_login(name) or DEFAULT_LOGIN
    logins, profile = StoredLogins(logins_folder()), load_profile()
    with issuer_errors(name):
        try:
            revoked = asyncio.run(log_out(logins, name, revoke=not local, proxy=profile.proxy_url))
        except (IssuerUnavailable, TokenRequestFailed) as error:
            command = "logout --local" if name == DEFAULT_LOGIN else f"logout {name} --local"
            error.add_note(f"the login was not deleted; `gatehouse {command}` deletes it without revoking it")
            raise
    typer.echo(f"logged out ({name})")
    if not revoked and not local:
        print_error("the issuer does not revoke these tokens: they are valid until they expire")
    return ExitCode.OK


def _user(response: TokenResponse, flow: Flow) -> str:
    """Return the name of the user, from the ID token or else the access token."""
    if flow == "client_credentials":
        return ""
    for token in (response.id_token, response.access_token):
        try:
            name = name_of_user(decode(token or "")["claims"])
        except ConfigurationError:  # opaque
            continue
        if name:
            return name
    return ""
