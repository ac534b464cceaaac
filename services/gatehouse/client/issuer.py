"""Tokens for a person at a terminal: obtain, decode, introspect, revoke."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gatehouse.client.client_credentials import TokenResponse, introspect, request_token, revoke
from gatehouse.client.profile import Profile
from gatehouse.oauth import Metadata, discover
from gatehouse.settings import ConfigurationError


class IssuerClient:
    """Asks the issuer of a profile.

    Args:
        profile: Where everything is.
        http: Client to ask with.
        metadata: Of the issuer.
    """

    def __init__(self, profile: Profile, http: httpx.AsyncClient, metadata: Metadata) -> None:
        self._profile = profile
        self._http = http
        self._metadata = metadata

    async def of_user(self, username: str, password: str, scope: str) -> TokenResponse:
        """Gets the tokens of a user by password (RFC 6749 section 4.3), which only demo realms allow."""
        data = {
            "grant_type": "password",
            "client_id": self._profile.console_client,
            "username": username,
            "password": password,
        }
        return await request_token(self._http, self._metadata.token_endpoint, data | _wish(scope))

    async def of_client(self, client_id: str, secret: str, scope: str) -> TokenResponse:
        """Gets the token of a client (RFC 6749 section 4.4)."""
        data = {"grant_type": "client_credentials"} | _wish(scope)
        return await request_token(self._http, self._metadata.token_endpoint, data, (client_id, secret))

    async def introspect(self, token: str) -> Mapping[str, Any]:
        """Asks what a token is worth now (RFC 7662), as the resource server."""
        api = self._profile.api_client
        return await introspect(
            self._http, self._metadata.introspection_endpoint, api, self.client_secret(api), token
        )

    async def revoke(self, token: str, client_id: str | None = None) -> None:
        """Revokes a token (RFC 7009) of a client, or of the console."""
        secret = self.client_secret(client_id) if client_id else None
        client_id = client_id or self._profile.console_client
        endpoint = self._profile.revocation_endpoint or self._metadata.revocation_endpoint
        await revoke(self._http, endpoint, client_id, secret, token)

    def client_secret(self, client_id: str) -> str:
        """Returns the secret of a client.

        Raises:
            ConfigurationError: The profile has none.
        """
        secret = self._profile.clients.get(client_id)
        if secret is None:
            raise ConfigurationError(
                f"{client_id}: its secret is not in the profile; add it under `clients` of the file that "
                "GATEHOUSE_PROFILE names"
            )
        return secret.get_secret_value()


def _wish(scope: str) -> dict[str, str]:
    # An empty scope is no scope (RFC 6749 section 3.3): Keycloak answers invalid_scope.
    return {"scope": scope} if scope else {}


def issuer_http(profile: Profile) -> httpx.AsyncClient:
    """Makes a client that trusts what a profile trusts, for questions to its issuer.

    Raises:
        ConfigurationError: The file of the authority cannot be read.
    """
    context = ssl.create_default_context()
    if profile.ca_file is not None:
        try:
            context.load_verify_locations(profile.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"{profile.ca_file}: cannot be used as an authority ({error})") from None
    return httpx.AsyncClient(trust_env=False, verify=context)


@asynccontextmanager
async def open_issuer_client(profile: Profile) -> AsyncIterator[IssuerClient]:
    """Finds the issuer of a profile.

    Raises:
        ConfigurationError: The file of the authority cannot be read.
        IssuerUnavailable: The issuer gives no usable metadata.
    """
    async with issuer_http(profile) as http:
        metadata = await discover(http, profile.issuer, profile.discovery_url)
        yield IssuerClient(profile, http, metadata)


def decode(token: str) -> dict[str, Any]:
    """Shows what stands in a signed token; nothing is verified.

    Raises:
        ConfigurationError: It is not a signed token.
    """
    try:
        header, payload, _ = token.strip().split(".")
        parts = [
            json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, payload)
        ]
    except ValueError:
        raise ConfigurationError(
            "the token: is not a JWS in compact form, so there is nothing to decode"
        ) from None
    return {"header": parts[0], "claims": parts[1]}
