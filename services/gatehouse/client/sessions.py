"""Log in, use a stored login, and log out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gatehouse.client.browser_login import login_in_browser
from gatehouse.client.client_credentials import ClientCredentials
from gatehouse.client.device_login import DevicePrompt, login_on_device
from gatehouse.client.login_store import Login, LoginStore
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.refresh import Refresh
from gatehouse.client.registration import Registration, open_client
from gatehouse.client.shared_grant import SharedGrant
from gatehouse.client.stored_logins import Flow, StoredLogin, StoredLogins
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.client.token_manager import Grant, TokenManager
from gatehouse.oauth import TokenRequestFailed

# The issuer does not accept the token any longer, or revokes no tokens of this type (RFC 7009 section 2.2.1).
_ENDED = frozenset({"invalid_token", "invalid_grant"})
_NOT_REVOCABLE = frozenset({"unsupported_token_type"})


async def request_login(
    client: OAuthClient,
    registration: Registration,
    flow: Flow,
    *,
    open_browser: Callable[[str], object],
    on_prompt: Callable[[DevicePrompt], None],
    port: int = 0,
) -> TokenResponse:
    """Let a user or a client log in, and return the tokens.

    Args:
        client: The client to log in to.
        registration: What to request.
        flow: How to log in.
        open_browser: See login_in_browser.
        on_prompt: See login_on_device.
        port: Port for the redirect of the browser; 0 for any.

    Raises:
        LoginCancelled: The user declined, or did not log in in time.
        TokenRequestFailed: The issuer refused.
        IssuerUnavailable: The issuer does not support the flow, or gave no usable response.
    """
    scope = registration.scope
    match flow:
        case "browser":
            return await login_in_browser(
                client, scope, open_browser=open_browser, port=port, parameters=registration.targets
            )
        case "device":
            return await login_on_device(client, on_prompt, scope, parameters=registration.targets)
        case "client_credentials":
            return await _client_credentials(client, registration).request()


async def keep_login(
    logins: StoredLogins, name: str, login: StoredLogin, response: TokenResponse, secret: str = ""
) -> None:
    """Store a login under a name, in place of the present one.

    Args:
        logins: The stored logins.
        name: Name of the login.
        login: All but its tokens.
        response: Its tokens.
        secret: Secret of the client, if that is in no file.

    Raises:
        TokenStoreError: It cannot be stored.
    """
    store = logins.store(name, login.place)
    async with store.locked():
        before = logins.usable().get(name)
        store.save(Login.of(response, time.time(), secret))
        logins.save(name, login)
        if before is not None and before.place != login.place:
            logins.store(name, before.place).save(None)


@asynccontextmanager
async def open_login(
    logins: StoredLogins, name: str, *, proxy: str | None = None
) -> AsyncIterator[tuple[TokenManager, LoginStore]]:
    """Open the token source of a stored login, and the store of its tokens.

    Args:
        logins: The stored logins.
        name: Name of the login.
        proxy: URL of an HTTP proxy for requests to the issuer.

    Raises:
        LoginRequired: There is no login of this name.
        ConfigurationError: A file of the client cannot be used.
        TokenStoreError: The tokens cannot be read.
    """
    stored = logins.require(name)
    store = logins.store(name, stored.place)
    async with _open_client(stored.registration, store, proxy) as client:
        grant: Grant = Refresh(client, store)
        if stored.flow == "client_credentials":
            grant = SharedGrant(_client_credentials(client, stored.registration), store)
        tokens = TokenManager(grant)
        try:
            yield tokens, store
        finally:
            await tokens.aclose()


@asynccontextmanager
async def open_client_of(
    logins: StoredLogins, name: str, *, proxy: str | None = None
) -> AsyncIterator[OAuthClient]:
    """Open the client of a stored login; see open_login."""
    stored = logins.require(name)
    async with _open_client(stored.registration, logins.store(name, stored.place), proxy) as client:
        yield client


async def log_out(logins: StoredLogins, name: str, *, revoke: bool, proxy: str | None = None) -> bool:
    """Revoke the tokens of a login at the issuer (RFC 7009), then delete it.

    Args:
        logins: The stored logins.
        name: Name of the login.
        revoke: Whether to revoke; otherwise it is only deleted.
        proxy: URL of an HTTP proxy for requests to the issuer.

    Returns:
        Whether the issuer has ended the login.

    Raises:
        LoginRequired: There is no login of this name.
        TokenRequestFailed: The issuer refused. The login is kept.
        IssuerUnavailable: The issuer gave no usable response. The login is kept.
        TokenStoreError: The tokens cannot be read or deleted.
    """
    stored = logins.require(name)
    store = logins.store(name, stored.place)
    async with store.locked():
        login = store.load() if revoke else None
        revoked = login is None and revoke  # it had ended before
        if login is not None:
            async with _open_client(stored.registration, store, proxy) as client:
                revoked = await _revoke(client, login, stored.registration)
        store.save(None)
        logins.delete(name)
    return revoked


def _client_credentials(client: OAuthClient, registration: Registration) -> ClientCredentials:
    return ClientCredentials(client, registration.scope, registration.audience, registration.resource)


@asynccontextmanager
async def _open_client(
    registration: Registration, store: LoginStore, proxy: str | None
) -> AsyncIterator[OAuthClient]:
    login = store.load() if registration.needs_secret else None
    secret = "" if login is None else login.client_secret
    async with open_client(registration, secret=secret, proxy=proxy) as client:
        yield client


async def _revoke(client: OAuthClient, login: Login, registration: Registration) -> bool:
    """Revoke the tokens of a login, and return whether it has ended."""
    endpoint = registration.revocation_endpoint or (await client.metadata()).revocation_endpoint
    if not endpoint:
        return False
    ended = [
        await _revoke_one(client, token, hint, endpoint)
        for token, hint in ((login.refresh_token, "refresh_token"), (login.access_token, "access_token"))
        if token
    ]
    return ended[0]  # without its refresh token, a login ends with the access token


async def _revoke_one(client: OAuthClient, token: str, hint: str, endpoint: str) -> bool:
    try:
        await client.revoke(token, hint, endpoint=endpoint)
    except TokenRequestFailed as error:
        if error.error in _NOT_REVOCABLE:
            return False
        if error.error not in _ENDED:
            raise
    return True


def name_of_user(claims: dict[str, Any]) -> str:
    """Return the name of a user from claims (OpenID Connect Core section 5.1), "" if they have none."""
    values = (claims.get(name) for name in ("preferred_username", "email", "name", "sub"))
    return next((v for v in values if isinstance(v, str) and v and v.isprintable()), "")
