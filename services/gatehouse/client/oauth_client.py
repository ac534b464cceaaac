"""A client that is registered at an issuer: which endpoints it uses, and how it authenticates there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import httpx

from gatehouse.client.client_auth import ClientAuth, PublicClient, TlsClientAuth
from gatehouse.client.token_endpoint import TokenResponse, post, refusal, request_token
from gatehouse.oauth import IssuerUnavailable, Metadata, OAuthError, TokenRequestFailed, discover

WAITING = frozenset({"authorization_pending", "slow_down"})
"""Errors of a device that waits for its user (RFC 8628 section 3.5)."""


class OAuthClient:
    """A client at an issuer, which all grants share.

    After a failed request the metadata is fetched again, because the endpoints may have moved.

    Args:
        http: HTTP client.
        client_id: Client id.
        auth: How the client authenticates; None for a public client.
        issuer: The issuer.
        discovery_url: URL of the discovery document, if not under `issuer`.
        token_endpoint: URL of the token endpoint; None takes it from the metadata of `issuer`.
        allow_http: Allow plain HTTP to hosts other than loopback.
        clock: Seconds since the epoch, for a Retry-After that is a date.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        client_id: str,
        auth: ClientAuth | None = None,
        *,
        issuer: str = "",
        discovery_url: str | None = None,
        token_endpoint: str | None = None,
        allow_http: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.client_id = client_id
        self._http = http
        self._auth = auth or PublicClient()
        self._issuer = issuer
        self._discovery_url = discovery_url
        self._token_endpoint = token_endpoint
        self._allow_http = allow_http
        self._clock = clock
        self._metadata: Metadata | None = None
        self._has_failed = False

    async def request_token(self, form: Mapping[str, str | list[str]]) -> TokenResponse:
        """Send a token request (RFC 6749 section 3.2), authenticated as this client.

        Args:
            form: Parameters of the grant with `grant_type`; those with an empty value are left out.

        Raises:
            TokenRequestFailed: The issuer refused.
            IssuerUnavailable: The issuer gave no usable response.
        """
        try:
            endpoint = self._token_endpoint or await self._endpoint("token_endpoint")
            data, basic = self._authenticated(form, endpoint)
            response = await request_token(
                self._http, endpoint, data, basic, allow_http=self._allow_http, clock=self._clock
            )
        except OAuthError as error:
            self._has_failed = not (isinstance(error, TokenRequestFailed) and error.error in WAITING)
            raise
        self._has_failed = False
        return response

    async def post(
        self, endpoint: str, form: Mapping[str, str | list[str]], what: str
    ) -> Mapping[str, object]:
        """Send a form to another endpoint, authenticated as this client, and return the response.

        Args:
            endpoint: URL of the endpoint.
            form: Parameters; those with an empty value are left out.
            what: Prefix of the error reasons, such as `device_authorization`.

        Raises:
            TokenRequestFailed: The issuer refused, or the response is not a JSON object.
            IssuerUnavailable: The issuer gave no usable response.
        """
        data, basic = self._authenticated(form, endpoint)
        response = await post(self._http, endpoint, data, basic, self._allow_http, self._clock, what)
        if response.body is None:
            raise TokenRequestFailed("malformed_response", detail=response.detail)
        return response.body

    async def metadata(self) -> Metadata:
        """Return the metadata of the issuer; that of an earlier request while it is unavailable.

        Raises:
            IssuerUnavailable: There is none.
        """
        if self._metadata is None or self._has_failed:
            try:
                metadata = await discover(
                    self._http, self._issuer, self._discovery_url, allow_http=self._allow_http
                )
                with_certificate = isinstance(self._auth, TlsClientAuth)
                self._metadata = metadata.for_mutual_tls() if with_certificate else metadata
            except IssuerUnavailable:
                if self._metadata is None:
                    raise
        return self._metadata

    async def introspect(self, token: str) -> Mapping[str, object]:
        """Introspect a token (RFC 7662).

        Raises:
            TokenRequestFailed: The issuer refused.
            IssuerUnavailable: The issuer has no such endpoint, or gave no usable response.
        """
        endpoint = await self._endpoint("introspection_endpoint")
        return await self.post(endpoint, {"token": token}, "introspection")

    async def revoke(self, token: str, hint: str = "", *, endpoint: str = "") -> None:
        """Revoke a token (RFC 7009).

        Args:
            token: An access token or a refresh token that was issued to this client.
            hint: Its type: `access_token`, `refresh_token` or "".
            endpoint: URL of the endpoint, if not the one in the metadata.

        Raises:
            TokenRequestFailed: The issuer refused, even if with status 200.
            IssuerUnavailable: The issuer has no such endpoint, or gave no usable response.
        """
        endpoint = endpoint or await self._endpoint("revocation_endpoint")
        data, basic = self._authenticated({"token": token, "token_type_hint": hint}, endpoint)
        response = await post(self._http, endpoint, data, basic, self._allow_http, self._clock, "revocation")
        if response.body is not None and "error" in response.body:
            raise refusal(response)

    async def _endpoint(self, name: str) -> str:
        endpoint: str = getattr(await self.metadata(), name)
        if not endpoint:
            raise IssuerUnavailable(f"{name}_missing", detail="not in the metadata")
        return endpoint

    def _authenticated(
        self, form: Mapping[str, str | list[str]], endpoint: str
    ) -> tuple[dict[str, str | list[str]], tuple[str, str] | None]:
        """Return the form with the credentials of this client, and its Basic credentials."""
        credentials = self._auth.credentials(self.client_id, self._issuer or endpoint)
        # Keycloak answers invalid_scope to an empty scope, so it is left out (RFC 6749 section 3.3).
        data = {name: value for name, value in form.items() if value}
        return data | dict(credentials.fields), credentials.basic
