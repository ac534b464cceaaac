"""Obtain, decode, introspect and revoke tokens with the clients and users of a profile."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gatehouse.client.profile import ADD_TO_PROFILE, Profile
from gatehouse.client.token_endpoint import TokenResponse, introspect, request_token, revoke
from gatehouse.oauth import Metadata, TokenRequestFailed, discover, open_http
from gatehouse.settings import ConfigurationError


class IssuerClient:
    """Sends requests to the issuer of a profile.

    Args:
        profile: Clients and their secrets.
        http: HTTP client.
        metadata: Endpoints of the issuer.
    """

    def __init__(self, profile: Profile, http: httpx.AsyncClient, metadata: Metadata) -> None:
        self._profile = profile
        self._http = http
        self._metadata = metadata

    async def user_token(self, username: str, password: str, scope: str) -> TokenResponse:
        """Request the tokens of a user by password (RFC 6749 section 4.3); only demo realms allow it."""
        form = {
            "grant_type": "password",
            "client_id": self._profile.console_client,
            "username": username,
            "password": password,
        }
        return await self._request_token(form, scope)

    async def client_token(self, client_id: str, scope: str) -> TokenResponse:
        """Request the token of a client (RFC 6749 section 4.4).

        Raises:
            ConfigurationError: The profile has no secret of the client.
        """
        secret = self._client_secret(client_id)
        return await self._request_token({"grant_type": "client_credentials"}, scope, (client_id, secret))

    async def client_token_for(self, client_id: str, scopes: Sequence[str]) -> TokenResponse:
        """Request the token of a client with `scopes`, or without them if the client may not have them.

        The service that needs the scopes then explains what is missing.
        """
        try:
            return await self.client_token(client_id, " ".join(scopes))
        except TokenRequestFailed as error:
            if error.error != "invalid_scope":
                raise
            return await self.client_token(client_id, "")

    async def _request_token(
        self, form: dict[str, str], scope: str, auth: tuple[str, str] | None = None
    ) -> TokenResponse:
        # Keycloak answers invalid_scope to an empty scope, so it is left out (RFC 6749 section 3.3).
        wanted = {"scope": scope, "audience": self._profile.audience, "resource": self._profile.resource}
        form |= {name: value for name, value in wanted.items() if value}
        return await request_token(self._http, self._metadata.token_endpoint, form, auth)

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """Introspect a token (RFC 7662) as the client of the services."""
        api = self._profile.api_client
        return await introspect(
            self._http, self._metadata.introspection_endpoint, api, self._client_secret(api), token
        )

    async def revoke(self, token: str, client_id: str | None = None) -> None:
        """Revoke a token (RFC 7009) as the client it was issued to; None is the console client."""
        secret = self._client_secret(client_id) if client_id else None
        client_id = client_id or self._profile.console_client
        endpoint = self._profile.revocation_endpoint or self._metadata.revocation_endpoint
        await revoke(self._http, endpoint, client_id, secret, token)

    def _client_secret(self, client_id: str) -> str:
        secret = self._profile.clients.get(client_id)
        if secret is None:
            raise ConfigurationError(
                f"{client_id}: no client secret in the profile; {ADD_TO_PROFILE} under `clients`"
            )
        return secret.get_secret_value()


def issuer_http(profile: Profile) -> httpx.AsyncClient:
    """Return an HTTP client with the certificate authorities and the proxy of a profile.

    Raises:
        ConfigurationError: The CA file cannot be read.
    """
    return open_http(profile.ca_file, profile.proxy_url)


@asynccontextmanager
async def open_issuer_client(profile: Profile) -> AsyncIterator[IssuerClient]:
    """Discover the issuer of a profile and open a client for it.

    Raises:
        ConfigurationError: The CA file cannot be read.
        IssuerUnavailable: The issuer has no usable metadata.
    """
    async with issuer_http(profile) as http:
        metadata = await discover(http, profile.issuer, profile.discovery_url)
        yield IssuerClient(profile, http, metadata)


def decode(token: str) -> dict[str, Any]:
    """Return the header and the claims of a JWT without verifying it.

    Raises:
        ConfigurationError: The token is not a JWT.
    """
    try:
        header, payload, _ = token.strip().split(".")
        parts = [
            json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, payload)
        ]
    except ValueError:
        raise ConfigurationError("the token is not a JWT (RFC 7519), so it cannot be decoded") from None
    return {"header": parts[0], "claims": parts[1]}
