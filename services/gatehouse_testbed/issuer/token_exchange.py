"""Token exchange (RFC 8693), with the rules and errors of Keycloak's standard token exchange."""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    InvalidClientError,
    InvalidRequestError,
    TokenEndpointMixin,
)

from gatehouse_testbed.issuer.grants import IssuerGrant
from gatehouse_testbed.issuer.tokens import ActiveToken, audiences_of

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a type
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type


class TokenExchange(IssuerGrant, TokenEndpointMixin):
    """A client gets a token for the subject of a token that names the client in `aud`, or is its own.

    As in Keycloak, `actor_token` and `resource` are ignored, the new token has no `act`, and a scope that the
    subject token lacks is granted if client and user may have it.
    """

    GRANT_TYPE = TOKEN_EXCHANGE

    def validate_token_request(self) -> None:
        """Check the client, the parameters, the subject token and the scope."""
        request, form, tokens = self.request, self.request.form, self.tokens
        client = request.client = self.authenticate_token_endpoint_client()
        if client.public_client or client.attributes.get("standard.token.exchange.enabled") != "true":
            raise InvalidRequestError("Standard token exchange is not enabled for the requested client")
        for name in ("subject_token", "subject_token_type"):
            if name not in form:
                raise InvalidRequestError(f"Parameter '{name}' required for standard token exchange")
        if form["subject_token_type"] != ACCESS_TOKEN:
            raise InvalidRequestError("Parameter 'subject_token' supports access tokens only")
        if form.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
            raise InvalidRequestError("requested_token_type unsupported")
        if form.get("audience", client.client_id) not in tokens.realm.clients:
            raise InvalidClientError("Audience not found", status_code=400)
        subject = tokens.active(form["subject_token"])
        if subject is None or subject.claims["typ"] != "Bearer":
            raise InvalidRequestError("Invalid token")
        if client.client_id not in {subject.claims["azp"], *audiences_of(subject.claims)}:
            raise AccessDeniedError("Client is not within the token audience", status_code=403)
        self.validate_requested_scope()
        request.session, request.audience = subject.session, form.get("audience", "")
        self._subject: ActiveToken = subject

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        """Return an access token for the subject, and no refresh token."""
        token = self.generate_token(
            user=self._subject.user, scope=self.request.payload.scope, include_refresh_token=False
        )
        return 200, token | {"issued_token_type": ACCESS_TOKEN}, self.TOKEN_RESPONSE_HEADER
