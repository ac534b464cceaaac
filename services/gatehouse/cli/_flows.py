"""Log in with any flow: what the user sees meanwhile, and which scopes are requested."""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import typer

from gatehouse.app.policy import policy_scopes
from gatehouse.cli._client_options import ClientOptions
from gatehouse.cli._issuer_errors import issuer_errors
from gatehouse.cli._token import password_of
from gatehouse.client import PasswordGrant, TokenResponse
from gatehouse.client.device_login import DevicePrompt
from gatehouse.client.profile import Profile
from gatehouse.client.registration import Registration, open_client
from gatehouse.client.sessions import request_login
from gatehouse.client.stored_logins import Flow
from gatehouse.settings import ConfigurationError, environment


@dataclass(frozen=True, slots=True)
class Browser:
    """How a user logs in with the browser of this computer.

    Attributes:
        port: Port for the redirect; 0 for any.
        opens: Whether to open the login page; otherwise only its address is printed.
    """

    port: int = 0
    opens: bool = True

    def show(self, url: str) -> None:
        """Show the login page to the user."""
        typer.echo(f"Log in on this page, in a browser of this computer:\n  {url}", err=True)
        if not self.opens:
            return
        # Without a screen, `webbrowser` would start a browser in this terminal.
        if sys.platform == "darwin" or {"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} & set(environment()):
            # Some browsers run until the user closes them.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        else:
            typer.echo("If the browser is on another device, use --device instead.", err=True)


async def request_by_flow(
    registration: Registration, flow: Flow, secret: str, profile: Profile, browser: Browser
) -> TokenResponse:
    """Let a user or a client log in, and return the tokens; see request_login.

    Args:
        registration: The client, and what to request.
        flow: How to log in.
        secret: Secret of the client, if that is in no file.
        profile: The proxy.
        browser: How to show the login page.
    """
    async with open_client(registration, secret=secret, proxy=profile.proxy_url) as client:
        return await request_login(
            client, registration, flow, open_browser=browser.show, on_prompt=_print_prompt, port=browser.port
        )


def token_by_flow(
    flow: Flow, options: ClientOptions, profile: Profile, scope: str | None, browser: Browser
) -> str:
    """Return a new access token, which is not stored.

    Args:
        flow: How to log in.
        options: The client.
        profile: Issuer and client, if the options name none.
        scope: Scopes to request.
        browser: How to show the login page.
    """
    confidential = flow == "client_credentials"
    if confidential and options.client_id is None:
        raise ConfigurationError("--client-credentials: name the client with --client-id")
    registration = options.registration(profile, scope=scope, confidential=confidential)
    if not confidential:
        registration = with_scope(registration, profile)
    secret = options.secret(registration, profile)
    with issuer_errors():
        return asyncio.run(request_by_flow(registration, flow, secret, profile, browser)).access_token


def token_by_password(
    user: str, file: Path | None, options: ClientOptions, profile: Profile, scope: str | None
) -> str:
    """Return a new access token of a user by password, which is legacy.

    Args:
        user: User name.
        file: File with the password; None asks.
        options: The client.
        profile: Issuer and client, if the options name none.
        scope: Scopes to request.
    """
    registration = with_scope(options.registration(profile, scope=scope), profile)
    secret, password = options.secret(registration, profile), password_of(user, profile, file)

    async def request() -> TokenResponse:
        async with open_client(registration, secret=secret, proxy=profile.proxy_url) as client:
            with warnings.catch_warnings(action="ignore"):  # password_of has warned
                grant = PasswordGrant(client, user, password, registration.scope, **registration.targets)
            return await grant.request()

    with issuer_errors():
        return asyncio.run(request()).access_token


def with_scope(registration: Registration, profile: Profile) -> Registration:
    """Return a registration that requests scopes for a user.

    By default these are all of the policy at the issuer of the services, and `openid` at other issuers.
    """
    if registration.scope:
        return registration
    scopes = {"openid"}
    if registration.issuer == profile.issuer:
        scopes |= policy_scopes()
    return registration.model_copy(update={"scope": " ".join(sorted(scopes))})


def _print_prompt(prompt: DevicePrompt) -> None:
    lines = [f"Open {prompt.verification_uri} on any device, and enter the code {prompt.user_code}"]
    if prompt.verification_uri_complete:
        lines.append(f"or open {prompt.verification_uri_complete}")
    lines.append(f"The code is valid for {prompt.expires_in / 60:.0f} minutes.")
    typer.echo("\n".join(lines), err=True)
