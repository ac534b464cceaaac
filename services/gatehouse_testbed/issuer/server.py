"""Authlib's authorization server on a realm, with the errors of Keycloak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote_plus

from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    InvalidClientError,
    InvalidRequestError,
    OAuth2Error,
    OAuth2Request,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6749.util import extract_basic_authorization
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from starlette.responses import JSONResponse, RedirectResponse, Response

from gatehouse_testbed.issuer.grants import (
    CLIENT_AUTH_METHODS,
    AuthorizationCode,
    ClientCredentials,
    Password,
    Refresh,
    RequiredChallenge,
)
from gatehouse_testbed.issuer.realm import Client
from gatehouse_testbed.issuer.sessions import Session
from gatehouse_testbed.issuer.tokens import Tokens

_HINTS = frozenset({"access_token", "refresh_token", "requesting_party_token"})


class IssuerRequest(OAuth2Request):
    """A request, as Authlib reads it.

    Attributes:
        session: Session of the user, once it is known.
        nonce: Nonce of the authorization request (OpenID Connect).
        refresh_scope: Scope of the new refresh token, if it differs from that of the access token.
    """

    def __init__(self, method: str, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> None:
        # Authlib requires https; on loopback, http is as safe.
        super().__init__(method, "https" + url.removeprefix("http"), headers=headers)
        self.parameters = dict(form)
        self.payload = BasicOAuth2Payload(self.parameters)
        self.session: Session | None = None
        self.nonce = ""
        self.refresh_scope: str | None = None

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
        for grant in (ClientCredentials, Password, Refresh):
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
        """Authenticate a client by Basic or form (RFC 6749 section 2.3.1), with the errors of Keycloak.

        Raises:
            InvalidClientError: The client is unknown, disabled, or not named.
            UnauthorizedClientError: The secret is wrong; InvalidClientError at the introspection endpoint.
        """
        client_id, secret = extract_basic_authorization(request.headers)
        wrong = InvalidClientError if endpoint == "introspection" else UnauthorizedClientError
        if client_id:
            client_id, secret = unquote_plus(client_id), unquote_plus(secret or "")
            request.auth_method = "client_secret_basic"
            if request.form.get("client_id", client_id) != client_id:
                raise wrong("Invalid client or Invalid client credentials", status_code=401)
        else:
            client_id, secret = request.form.get("client_id"), request.form.get("client_secret")
            request.auth_method = "client_secret_post" if secret else "none"
        client = self.query_client(client_id or "")
        if client is None:
            raise InvalidClientError("Invalid client or Invalid client credentials", status_code=401)
        if client.public_client:
            request.auth_method = "none"
            if "none" not in methods:
                raise InvalidRequestError("Client not allowed.", status_code=403)
            return client
        if not secret or not client.check_client_secret(secret):
            raise wrong("Invalid client or Invalid client credentials", status_code=401)
        return client


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
