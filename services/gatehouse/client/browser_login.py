"""Authorization code with PKCE over a loopback redirect (RFC 8252): a user logs in with the browser here."""

from __future__ import annotations

import asyncio
import time
import webbrowser
from collections.abc import Callable, Mapping

from gatehouse.client._loopback_redirect import loopback_redirect
from gatehouse.client.authorization_request import AuthorizationRequest
from gatehouse.client.login_errors import LoginCancelled
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse

LOGIN_SECONDS = 300.0


async def login_in_browser(
    client: OAuthClient,
    scope: str = "openid",
    *,
    open_browser: Callable[[str], object] = webbrowser.open,
    port: int = 0,
    timeout: float = LOGIN_SECONDS,
    parameters: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> TokenResponse:
    """Let a user log in with the browser of this computer, and return the tokens.

    The issuer redirects the browser to `http://127.0.0.1:PORT/callback`, where this function listens.

    Args:
        client: The client to log in to.
        scope: Scopes to request, separated by spaces; `openid` asks for an ID token too.
        open_browser: Opens the login page, or prints its URL. Called in the event loop.
        port: Port to listen on; 0 for any, which issuers allow for loopback (RFC 8252 section 7.3).
        timeout: Seconds to wait for the user.
        parameters: Further parameters of the authorization request, such as `acr_values`.
        clock: Seconds since the epoch, for the ID token.

    Raises:
        LoginCancelled: The user declined, or did not log in in time.
        TokenRequestFailed: The issuer refused, or the response is from another issuer or login.
        IssuerUnavailable: The issuer has no authorization endpoint, or does not respond.
        OSError: The port is in use.
    """
    # The request needs the port of the redirect, which is known when something listens there.
    request: AuthorizationRequest | None = None

    def belongs(query: Mapping[str, str]) -> bool:
        return request is not None and request.belongs(query)

    async with loopback_redirect(port, belongs) as (redirect_uri, arrived):
        request = await AuthorizationRequest.create(client, scope, redirect_uri)
        open_browser(request.url(parameters))
        try:
            async with asyncio.timeout(timeout):
                query = await arrived
        except TimeoutError:
            raise LoginCancelled("timeout") from None
    return await request.redeem(query, clock=clock)
