"""The page of the access token: its claims, what the issuer says about it now, refresh and revocation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gatehouse.client.issuer import decode, open_issuer_client
from gatehouse.oauth import IssuerUnavailable, OAuthError, TokenRequestFailed
from gatehouse.settings import ConfigurationError
from gatehouse_console.claims import explain_claims
from gatehouse_console.problems import Problem, problem_of
from gatehouse_console.site import Site


class TokenPages:
    """The pages of the token.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [
            Route("/token", self.show),
            Route("/token/refresh", self.refresh, methods=["POST"]),
            Route("/token/revoke", self.revoke, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """Explain the access token."""
        session = self._site.session(request)
        token = await self._site.token(session)
        header, claims = _decoded(token)
        introspection, problem = await self._introspect(token)
        login = session.login
        return self._site.page(
            request,
            "token.html",
            header=header,
            claims=explain_claims(claims, introspection),
            active=introspection.get("active") is True if introspection is not None else None,
            problem=problem,
            remaining=max(0, round(login.expires_at - time.time())) if login is not None else 0,
            renewable=login is not None and bool(login.refresh_token),
        )

    async def refresh(self, request: Request) -> Response:
        """Get another token, without the rights that the user has lost."""
        session, _ = await self._site.form(request)
        renewed, undo = self._site.sessions.renew(self._site.client, session)
        try:
            await self._site.token(renewed)
        except Problem:
            undo()
            raise
        return RedirectResponse(f"{self._site.origin.url}/token", 303)

    async def revoke(self, request: Request) -> Response:
        """Revoke the access token (RFC 7009); the login continues."""
        session, _ = await self._site.form(request)
        profile = self._site.profile
        token = await self._site.token(session)
        try:
            await self._site.client.revoke(token, "access_token", endpoint=profile.revocation_endpoint or "")
        except OAuthError as error:
            raise problem_of(error, profile.issuer) from None
        return RedirectResponse(f"{self._site.origin.url}/token", 303)

    async def _introspect(self, token: str) -> tuple[Mapping[str, Any] | None, str]:
        """Return the response of the introspection (RFC 7662), or why there is none."""
        profile = self._site.profile
        if profile.api_client not in profile.clients:
            return None, f"the profile has no secret of a client that may ask ({profile.api_client})"
        try:
            async with open_issuer_client(profile) as issuer:
                return await issuer.introspect(token), ""
        except IssuerUnavailable as error:
            return None, f"the issuer does not respond ({error})"
        except TokenRequestFailed as error:
            return None, f"the issuer refused ({error})"


def _decoded(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims of a token, nothing if it is opaque."""
    try:
        parts = decode(token)
    except ConfigurationError:
        return {}, {}
    header, claims = parts["header"], parts["claims"]
    return (header, claims) if isinstance(header, dict) and isinstance(claims, dict) else ({}, {})
