"""The device grant of the issuer: RFC 8628, with the rules and errors of Keycloak."""

from __future__ import annotations

import hmac
from typing import Any

from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    InvalidGrantError,
    InvalidRequestError,
    TokenEndpointMixin,
)
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oauth2.rfc8628 import AuthorizationPendingError, ExpiredTokenError, SlowDownError

from gatehouse_testbed.issuer.grants import IssuerGrant, require_user
from gatehouse_testbed.issuer.sessions import DeviceCode

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


class DeviceGrant(IssuerGrant, TokenEndpointMixin):
    """RFC 8628 section 3.4. A device code can be used once; a wrong PKCE verifier does not use it up."""

    GRANT_TYPE = DEVICE_CODE

    def validate_token_request(self) -> None:
        """Check client, device code, interval, the decision of the user, and PKCE."""
        self.request.client = client = self.authenticate_token_endpoint_client()
        code = self.request.form.get("device_code")
        if not code:
            raise InvalidRequestError("Missing parameter: device_code")
        if not client.check_grant_type(DEVICE_CODE):
            raise InvalidGrantError("Client not allowed OAuth 2.0 Device Authorization Grant")
        found = self.tokens.sessions.device_codes.get(code)
        if found is None or found.client_id != client.client_id:
            raise InvalidGrantError("Device code not valid")
        self._check_state(found)
        verifier = self.request.form.get("code_verifier", "")
        if not hmac.compare_digest(create_s256_code_challenge(verifier), found.code_challenge):
            raise InvalidGrantError("PKCE verification failed: Code mismatch")
        self.request.device = found

    def _check_state(self, found: DeviceCode) -> None:
        now = self.tokens.clock()
        if now >= found.expires_at:
            raise ExpiredTokenError("Device code is expired")
        # A poll that is too early does not delay the next one.
        if now < found.poll_at:
            raise SlowDownError("Slow down")
        found.poll_at = now + found.interval
        if found.denied:
            raise AccessDeniedError("The end user denied the authorization request")
        if found.session is None:
            raise AuthorizationPendingError("The authorization request is still pending")
        if not self.tokens.is_session_valid(found.session):
            raise InvalidGrantError("Session not active")

    def create_token_response(self) -> Any:
        """Return the tokens of the user."""
        found: DeviceCode = self.request.device
        del self.tokens.sessions.device_codes[found.code]
        assert found.session is not None  # noqa: S101 - validate_token_request has checked it
        self.request.session = found.session
        user = require_user(self.tokens.realm.users.get(found.session.user_id))
        return 200, self.generate_token(user=user, scope=found.scope), self.TOKEN_RESPONSE_HEADER
