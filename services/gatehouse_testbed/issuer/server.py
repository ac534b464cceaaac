"""Authlib's authorization server on a realm, with the errors of Keycloak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    InvalidRequestError,
    OAuth2Error,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from starlette.responses import JSONResponse, RedirectResponse, Response

from gatehouse_testbed.issuer.client_auth import CLIENT_AUTH_METHODS, ClientAuthenticator
from gatehouse_testbed.issuer.device_grant import DeviceGrant
from gatehouse_testbed.issuer.grants import (
    AuthorizationCode,
    ClientCredentials,
    Password,
    Refresh,
    RequiredChallenge,
)
from gatehouse_testbed.issuer.realm import Client
from gatehouse_testbed.issuer.sessions import DeviceCode, Session
from gatehouse_testbed.issuer.token_exchange import TokenExchange
from gatehouse_testbed.issuer.tokens import Tokens

_HINTS = frozenset({"access_token", "refresh_token", "requesting_party_token"})


class IssuerRequest(OAuth2Request):
    """A request, as Authlib reads it.

    Attributes:
        session: Session of the user, once it is known.
        nonce: Nonce of the authorization request (OpenID Connect).
        device: Device code of the request, once it is checked.
        refresh_scope: Scope of the new refresh token, if it differs from that of the access token.
        audience: The only audience that the access token is to have, "" for all that it can have.
    """

    def __init__(self, method: str, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> None:
        # Authlib requires https; on loopback, http is as safe.
        super().__init__(method, "https" + url.removeprefix("http"), headers=headers)
        self.parameters = dict(form)
        self.payload = BasicOAuth2Payload(self.parameters)
        self.session: Session | None = None
        self.nonce = ""
        self.refresh_scope: str | None = None
        self.audience = ""
        self.device: DeviceCode | None = None

    @property
    def args(self) -> dict[str, str]:
        """Query parameters; they are in the form too."""
        return self.parameters

    @property
    def form(self) -> dict[str, str]:
        """Form parameters."""
        return self.parameters


class IssuerServer(AuthorizationServer):
    """The authorization server of a realm.

    Args:
        tokens: Tokens of the realm.
    """

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens
        self._authenticator = ClientAuthenticator(tokens)
        for grant in (ClientCredentials, Password, Refresh, DeviceGrant, TokenExchange):
            self.register_grant(grant)
        self.register_grant(AuthorizationCode, [RequiredChallenge(required=True)])
        self.register_endpoint(Introspection)
        self.register_endpoint(Revocation)

    def query_client(self, client_id: str) -> Client | None:
        """Return an enabled client."""
        client = self.tokens.realm.clients.get(client_id)
        return client if client is not None and client.enabled else None

    def create_oauth2_request(self, request: IssuerRequest) -> IssuerRequest:
        """Return the request, which the web handlers have converted already."""
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        """Return Starlette's response."""
        kept = dict(headers or ())
        if status in {302, 303}:
            return RedirectResponse(kept["Location"], status_code=302)
        if body is None:
            return Response(status_code=status, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})
        return JSONResponse(body, status, {"Cache-Control": "no-store", "Pragma": "no-cache"})

    def handle_error_response(self, request: IssuerRequest, error: OAuth2Error) -> Response:
        """Return an error response, always with a description."""
        error.description = error.get_error_description() or error.error.replace("_", " ").capitalize()
        response: Response = super().handle_error_response(request, error)
        return response

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there are no listeners."""

    def save_token(self, token: Mapping[str, Any], request: IssuerRequest) -> None:
        """Do nothing: tokens are signed, or were stored when they were issued."""

    def authenticate_client(
        self, request: IssuerRequest, methods: list[str], endpoint: str = "token"
    ) -> Client:
        """See ClientAuthenticator.authenticate."""
        return self._authenticator.authenticate(request, methods, endpoint)


class Introspection(IntrospectionEndpoint):
    """RFC 7662; only confidential clients may use it."""

    CLIENT_AUTH_METHODS: ClassVar = CLIENT_AUTH_METHODS

    def create_endpoint_response(self, request: IssuerRequest) -> Any:
        """Return the state of a token."""
        client = self.authenticate_endpoint_client(request)
        if "token" not in request.form:
            raise InvalidRequestError("Token not provided")
        hint = request.form.get("token_type_hint", "access_token")
        if hint not in _HINTS:
            raise InvalidRequestError("Unsupported token type")
        return 200, self.server.tokens.introspect(request.form["token"], client, hint), []


class Revocation(RevocationEndpoint):
    """RFC 7009: revokes an access token alone, a refresh token with its session."""

    CLIENT_AUTH_METHODS: ClassVar = [*CLIENT_AUTH_METHODS, "none"]

    def create_endpoint_response(self, request: IssuerRequest) -> Any:
        """Revoke a token of the authenticated client."""
        client = self.authenticate_endpoint_client(request)
        if "token" not in request.form:
            raise InvalidRequestError("Token not provided")
        tokens: Tokens = self.server.tokens
        value = request.form["token"]
        refresh = tokens.sessions.refresh_tokens.get(value)
        claims = None if refresh is not None else tokens.keys.verify(value)
        owner = refresh.client_id if refresh is not None else (claims or {}).get("azp")
        if owner is None:
            # RFC 7009 section 2.2: 200 for an unknown token. Keycloak adds the reason.
            return 200, {"error": "invalid_token", "error_description": "Invalid token"}, []
        if owner != client.client_id:
            raise InvalidRequestError("Unmatching clients")
        if refresh is not None:
            tokens.sessions.end(refresh.session)
        elif claims is not None:
            tokens.sessions.revoked[claims["jti"]] = True
        return 200, None, []
