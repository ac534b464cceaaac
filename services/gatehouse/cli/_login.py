"""The commands `login` and `logout`."""

from __future__ import annotations

import asyncio
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from gatehouse.app.policy import load_policy
from gatehouse.app.profile import load_full_profile
from gatehouse.cli import _client_options as client_options
from gatehouse.cli._errors import ExitCode, print_error
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._options import LoginName, Scope
from gatehouse.client.device_login import DevicePrompt
from gatehouse.client.issuer import decode
from gatehouse.client.keyring_store import keyring_problem
from gatehouse.client.login_folder import DEFAULT_LOGIN, chosen_login, logins_folder
from gatehouse.client.profile import Profile, profile_file
from gatehouse.client.registration import Registration, open_client
from gatehouse.client.sessions import keep_login, log_out, name_of_user, request_login
from gatehouse.client.stored_logins import Flow, Place, StoredLogin, StoredLogins
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, TokenRequestFailed
from gatehouse.settings import ConfigurationError, environment


def login(
    name: LoginName = None,
    issuer: client_options.Issuer = None,
    client_id: client_options.ClientId = None,
    *,
    device: Annotated[bool, typer.Option("--device", help="Log in on another device (RFC 8628).")] = False,
    client_credentials: Annotated[
        bool, typer.Option("--client-credentials", help="Log in as the client itself, without a user.")
    ] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address of the login page, do not open it.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for the redirect of the browser; 0 for any.")
    ] = 0,
    scope: Scope = None,
    audience: client_options.Audience = None,
    resource: client_options.Resource = None,
    auth: client_options.Auth = None,
    client_secret_file: client_options.ClientSecretFile = None,
    private_key_file: client_options.PrivateKeyFile = None,
    certificate_file: client_options.CertificateFile = None,
    key_id: client_options.KeyId = None,
    algorithm: client_options.Algorithm = None,
    discovery_url: client_options.DiscoveryUrl = None,
    ca_file: client_options.CaFile = None,
) -> int:
    """Log in to an issuer, and keep the login for the other commands.

    A user logs in with the browser of this computer. The issuer and the client are those of the login of this
    name, or of the profile. A login without a name is called `default`. The tokens are kept in the keyring of
    the system if that works, otherwise in a file that only you can read.

    Examples:
      gatehouse login
      gatehouse login --device
      gatehouse login work --issuer https://id.example.com --client-id cli --scope "openid read:users"
      gatehouse login worker --client-credentials --client-id gatehouse-worker --scope read:users
    """
    if device and client_credentials:
        raise ConfigurationError("--device and --client-credentials: give one of them")
    options = client_options.ClientOptions(
        issuer=issuer,
        client_id=client_id,
        auth=auth,
        client_secret_file=client_secret_file,
        private_key_file=private_key_file,
        certificate_file=certificate_file,
        key_id=key_id,
        algorithm=algorithm,
        discovery_url=discovery_url,
        ca_file=ca_file,
        scope=scope,
        audience=audience,
        resource=resource,
    )
    name = chosen_login(name) or DEFAULT_LOGIN
    logins, profile = StoredLogins(logins_folder()), load_full_profile()
    with issuer_errors(name):
        stored = None if profile_file() else logins.load(name)
        flow: Flow = "device" if device else "client_credentials" if client_credentials else "browser"
        if stored is not None and not (device or client_credentials or options.name_a_client):
            flow = stored.flow
        if client_credentials and client_id is None and stored is None:
            raise ConfigurationError("--client-credentials: name the client with --client-id")
        registration = options.registration(
            profile, stored.registration if stored else None, confidential=flow == "client_credentials"
        )
        if flow != "client_credentials" and not registration.scope:
            registration = registration.model_copy(update={"scope": _default_scope(registration, profile)})
        secret = options.secret(registration, profile)
        response = asyncio.run(
            _request(registration, flow, secret, profile, port=port, no_browser=no_browser)
        )
        kept = StoredLogin(
            registration=registration, flow=flow, place=_place(logins, name), user=_user(response, flow)
        )
        asyncio.run(keep_login(logins, name, kept, response, secret))
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
    logins, profile = StoredLogins(logins_folder()), load_full_profile()
    proxy = profile.proxy.get_secret_value() if profile.proxy else None
    with issuer_errors(name):
        try:
            revoked = asyncio.run(log_out(logins, name, revoke=not local, proxy=proxy))
        except (IssuerUnavailable, TokenRequestFailed) as error:
            error.add_note("the login is kept; `gatehouse logout --local` deletes it without revoking it")
            raise
    typer.echo(f"logged out ({name})")
    if not revoked and not local:
        print_error("the issuer does not revoke these tokens: they are valid until they expire")
    return ExitCode.OK


async def _request(
    registration: Registration, flow: Flow, secret: str, profile: Profile, *, port: int, no_browser: bool
) -> TokenResponse:
    proxy = profile.proxy.get_secret_value() if profile.proxy else None
    async with open_client(registration, secret=secret, proxy=proxy) as client:
        return await request_login(
            client,
            registration,
            flow,
            open_browser=_print_page if no_browser else _open_page,
            on_prompt=_print_prompt,
            port=port,
        )


def _default_scope(registration: Registration, profile: Profile) -> str:
    """Return the scopes of a user: all of the policy at the issuer of the services, else only `openid`."""
    if registration.issuer != profile.issuer:
        return "openid"
    return " ".join(["openid", *sorted({s for rule in load_policy().rules.values() for s in rule.scopes})])


def _print_page(url: str) -> None:
    typer.echo(f"Log in on this page, in a browser of this computer:\n  {url}", err=True)


def _open_page(url: str) -> None:
    _print_page(url)
    # Without a screen, `webbrowser` would start a browser in this terminal.
    if sys.platform == "darwin" or {"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} & set(environment()):
        # Some browsers run until the user closes them.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    else:
        typer.echo("If the browser is on another device, use --device instead.", err=True)


def _print_prompt(prompt: DevicePrompt) -> None:
    lines = [f"Open {prompt.verification_uri} on any device, and enter the code {prompt.user_code}"]
    if prompt.verification_uri_complete:
        lines.append(f"or open {prompt.verification_uri_complete}")
    lines.append(f"The code is valid for {prompt.expires_in / 60:.0f} minutes.")
    typer.echo("\n".join(lines), err=True)


def _place(logins: StoredLogins, name: str) -> Place:
    """Return where to keep the tokens of a login; warn if it is not the keyring."""
    problem = keyring_problem(f"{logins.keyring_entry(name)} (trial)")
    if not problem:
        return "keyring"
    others = (login for other in logins.names() if (login := logins.load(other)) is not None)
    if any(login.place == "file" for login in others):
        return "file"  # the user has seen the warning
    print_error(
        f"warning: the keyring of the system cannot be used ({problem}); the tokens are in "
        f"{logins.tokens_file(name)}, which only you can read"
    )
    return "file"


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
