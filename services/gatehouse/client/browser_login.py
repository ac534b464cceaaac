"""Authorization code with PKCE over a loopback redirect (RFC 8252): a user logs in with the browser here."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import jwt

from gatehouse.client._loopback_redirect import loopback_redirect
from gatehouse.client._pkce import challenge, new_verifier
from gatehouse.client.login_errors import LoginCancelled
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, Metadata, TokenRequestFailed
from gatehouse.oauth._http_failure import ERROR_CODES

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
    metadata = await client.metadata()
    if not metadata.authorization_endpoint:
        raise IssuerUnavailable("authorization_endpoint_missing", detail="not in the metadata")
    state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    login = _Login(client.client_id, metadata, state, nonce, new_verifier())
    async with loopback_redirect(port, login.belongs) as (redirect_uri, arrived):
        open_browser(login.url(scope, redirect_uri, parameters or {}))
        try:
            async with asyncio.timeout(timeout):
                query = await arrived
        except TimeoutError:
            raise LoginCancelled("timeout") from None
    code = login.code(query)
    response = await client.request_token(
        {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": login.verifier,
        }
    )
    if "openid" in scope.split():
        login.check_id_token(response.id_token, clock())
    return response


@dataclass(frozen=True, slots=True)
class _Login:
    """One authorization request, and the checks of its response."""

    client_id: str
    metadata: Metadata
    state: str
    nonce: str
    verifier: str

    def url(self, scope: str, redirect_uri: str, parameters: Mapping[str, str]) -> str:
        query = {
            **parameters,
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": scope,
            "state": self.state,
            "nonce": self.nonce,
            **challenge(self.verifier),
        }
        return str(httpx.URL(self.metadata.authorization_endpoint).copy_merge_params(query))

    def belongs(self, query: Mapping[str, str]) -> bool:
        """Return whether a redirect has the `state` of this login; others do not end it."""
        return hmac.compare_digest(query.get("state", "").encode(), self.state.encode())

    def code(self, query: Mapping[str, str]) -> str:
        """Return the code of an authorization response (RFC 6749 section 4.1.2, RFC 9207 section 2.4)."""
        issuer = query.get("iss")
        if issuer != self.metadata.issuer and (issuer is not None or self.metadata.iss_in_response):
            raise TokenRequestFailed("issuer_mismatch", detail="response of another issuer (RFC 9207)")
        if query.get("error") == "access_denied":
            raise LoginCancelled("access_denied")
        if "error" in query or not query.get("code"):
            error = query.get("error", "")
            known = error if error in ERROR_CODES else "malformed_response"
            raise TokenRequestFailed(known, detail="authorization response")
        return query["code"]

    def check_id_token(self, token: str | None, now: float) -> None:
        """Check that an ID token is of this login (OpenID Connect Core section 3.1.3.7).

        It came from the token endpoint itself, so its signature is not verified (item 6 there).
        """
        claims: dict[str, Any] = {}
        try:
            claims = jwt.decode(token or "", options={"verify_signature": False})
            audience = claims.get("aud")
            valid = (
                claims.get("iss") == self.metadata.issuer
                and self.client_id in (audience if isinstance(audience, list) else [audience])
                and claims.get("azp", self.client_id) == self.client_id
                and claims.get("nonce") == self.nonce
                and float(claims.get("exp", 0)) > now
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            valid = False
        if not valid:
            raise TokenRequestFailed("id_token_invalid", detail="no ID token, or one of another login")
