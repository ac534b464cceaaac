"""An authorization request with PKCE (RFC 6749 section 4.1, RFC 7636), and the checks of its response."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt

from gatehouse.client._pkce import challenge, new_verifier
from gatehouse.client.login_errors import LoginCancelled
from gatehouse.client.oauth_client import OAuthClient
from gatehouse.client.token_endpoint import TokenResponse
from gatehouse.oauth import IssuerUnavailable, Metadata, TokenRequestFailed
from gatehouse.oauth._http_failure import ERROR_CODES


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One login of a user in a browser. Use its response only in the browser that was sent to `url`.

    Attributes:
        client: The client to log in to.
        metadata: Endpoints of the issuer.
        scope: Scopes to request; `openid` asks for an ID token too.
        redirect_uri: Where the issuer sends the browser back to.
        state: Returned by the issuer with the response.
        nonce: Returned in the ID token.
        verifier: Proves to the token endpoint who sent the request.
    """

    client: OAuthClient = field(repr=False)
    metadata: Metadata
    scope: str
    redirect_uri: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    async def create(cls, client: OAuthClient, scope: str, redirect_uri: str) -> AuthorizationRequest:
        """Return a new request.

        Raises:
            IssuerUnavailable: The issuer has no authorization endpoint, or does not respond.
        """
        metadata = await client.metadata()
        if not metadata.authorization_endpoint:
            raise IssuerUnavailable("authorization_endpoint_missing", detail="not in the metadata")
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        return cls(client, metadata, scope, redirect_uri, state, nonce, new_verifier())

    def url(self, parameters: Mapping[str, str] | None = None) -> str:
        """Return the URL to open in the browser, with further parameters such as `acr_values`."""
        query = {
            **(parameters or {}),
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
            "state": self.state,
            "nonce": self.nonce,
            **challenge(self.verifier),
        }
        return str(httpx.URL(self.metadata.authorization_endpoint).copy_merge_params(query))

    def belongs(self, query: Mapping[str, str]) -> bool:
        """Return whether a redirect has the `state` of this login; others do not end it."""
        return hmac.compare_digest(query.get("state", "").encode(), self.state.encode())

    async def redeem(
        self, query: Mapping[str, str], *, clock: Callable[[], float] = time.time
    ) -> TokenResponse:
        """Exchange the code of a redirect for tokens.

        Args:
            query: Query of the redirect, which belongs to this login.
            clock: Seconds since the epoch, for the ID token.

        Raises:
            LoginCancelled: The user declined.
            TokenRequestFailed: The issuer refused, or the response is from another issuer or login.
            IssuerUnavailable: The token endpoint gave no usable response.
        """
        response = await self.client.request_token(
            {
                "grant_type": "authorization_code",
                "code": self._code(query),
                "redirect_uri": self.redirect_uri,
                "code_verifier": self.verifier,
            }
        )
        if "openid" in self.scope.split():
            self._check_id_token(response.id_token, clock())
        return response

    def _code(self, query: Mapping[str, str]) -> str:
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

    def _check_id_token(self, token: str | None, now: float) -> None:
        """Check that an ID token is of this login (OpenID Connect Core section 3.1.3.7).

        It came from the token endpoint itself, so its signature is not verified (item 6 there).
        """
        claims: dict[str, Any] = {}
        client_id = self.client.client_id
        try:
            claims = jwt.decode(token or "", options={"verify_signature": False})
            audience = claims.get("aud")
            valid = (
                claims.get("iss") == self.metadata.issuer
                and client_id in (audience if isinstance(audience, list) else [audience])
                and claims.get("azp", client_id) == client_id
                and claims.get("nonce") == self.nonce
                and float(claims.get("exp", 0)) > now
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            valid = False
        if not valid:
            raise TokenRequestFailed("id_token_invalid", detail="no ID token, or one of another login")
