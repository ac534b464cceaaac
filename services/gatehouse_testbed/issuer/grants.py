"""The grants of the issuer: Authlib's, with the rules and errors of Keycloak."""

from __future__ import annotations

import hmac
from typing import Any, ClassVar

from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidRequestError, UnauthorizedClientError, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7636.challenge import CODE_VERIFIER_PATTERN

from gatehouse_testbed.issuer.client_auth import CLIENT_AUTH_METHODS
from gatehouse_testbed.issuer.realm import Client, User
from gatehouse_testbed.issuer.sessions import Code, RefreshToken, Session
from gatehouse_testbed.issuer.tokens import OPENID, Tokens


class IssuerGrant(grants.BaseGrant):
    """What all grants share."""

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = [*CLIENT_AUTH_METHODS, "none"]

    @property
    def tokens(self) -> Tokens:
        """Tokens of the realm."""
        tokens: Tokens = self.server.tokens
        return tokens

    def validate_requested_scope(self) -> None:
        """Refuse scopes that the client may not request."""
        self.tokens.check_scope(self.request.client, self.request.payload.scope)

    def generate_token(
        self,
        user: User | None = None,
        scope: str | None = None,
        grant_type: str | None = None,  # noqa: ARG002 - Authlib's signature
        expires_in: int | None = None,  # noqa: ARG002 - Authlib's signature
        include_refresh_token: bool = True,  # noqa: FBT001, FBT002 - Authlib's signature
    ) -> dict[str, Any]:
        """Return the token response (RFC 6749 section 5.1)."""
        request, tokens, client = self.request, self.tokens, self.request.client
        scope = scope or ""
        session: Session | None = request.session
        if user is None:
            user = tokens.realm.service_account(client.client_id)
            if user is None or not user.enabled:
                raise _service_account_refused("Client")
        access_token, lifetime, granted = tokens.access_token(
            client, user, scope, session, audience=request.audience
        )
        answer: dict[str, Any] = {
            "access_token": access_token,
            "expires_in": lifetime,
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": granted,
        }
        if session is None:
            return answer
        session.last_used = tokens.clock()
        answer["session_state"] = session.sid
        if include_refresh_token:
            refresh_scope = scope if request.refresh_scope is None else request.refresh_scope
            answer["refresh_token"] = tokens.refresh_token(client, refresh_scope, session)
            answer["refresh_expires_in"] = tokens.realm.sso_session_idle_timeout
        if OPENID in scope.split():
            answer["id_token"] = tokens.id_token(client, user, scope, session, request.nonce, access_token)
        return answer


def _service_account_refused(who: str) -> UnauthorizedClientError:
    problem = "not allowed" if who == "Public client" else "not enabled"
    return UnauthorizedClientError(f"{who} {problem} to retrieve service account", status_code=401)


def require_user(user: User | None) -> User:
    """Return a user who is enabled.

    Raises:
        InvalidGrantError: The user is disabled, or there is none.
    """
    if user is None or not user.enabled:
        raise InvalidGrantError("User disabled")
    return user


class ClientCredentials(IssuerGrant, grants.ClientCredentialsGrant):
    """RFC 6749 section 4.4."""

    def validate_token_request(self) -> None:
        """Refuse clients without a service account, with the errors of Keycloak."""
        client = self.authenticate_token_endpoint_client()
        if client.public_client:
            raise _service_account_refused("Public client")
        if not client.check_grant_type(self.GRANT_TYPE):
            raise _service_account_refused("Client")
        self.request.client = client
        self.validate_requested_scope()


class Password(IssuerGrant, grants.ResourceOwnerPasswordCredentialsGrant):
    """RFC 6749 section 4.3; deprecated, for clients with direct access grants."""

    def validate_token_request(self) -> None:
        """Answer 401 if the user name is missing; a missing password is an empty one."""
        self.request.form.setdefault("password", "")
        try:
            super().validate_token_request()
        except InvalidRequestError as error:
            error.status_code = 401
            raise

    def authenticate_user(self, username: str, password: str) -> User:
        """Return the user with this name and password.

        Raises:
            InvalidGrantError: There is none, or the user is disabled.
        """
        user = self.tokens.realm.user_named(username)
        correct = hmac.compare_digest(password.encode(), (user.password if user else "").encode())
        if user is None or not user.password or not correct:
            raise InvalidGrantError("Invalid user credentials", status_code=400)
        if not user.enabled:
            raise InvalidGrantError("Account disabled", status_code=400)
        self.request.session = self.tokens.sessions.open(user.user_id, self.tokens.clock())
        return user


class Refresh(IssuerGrant, grants.RefreshTokenGrant):
    """RFC 6749 section 6, with rotation: a second use of a refresh token ends its session."""

    def validate_token_request(self) -> None:
        """Check client, refresh token and scope.

        Authlib refuses scopes that were not granted. Keycloak drops them, and refuses only those that the
        client may not request.
        """
        self.request.client = self.authenticate_token_endpoint_client()
        value = self.request.form.get("refresh_token")
        if value is None:
            raise InvalidRequestError("No refresh token")
        self.request.refresh_token = self.authenticate_refresh_token(value)
        self.validate_requested_scope()

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshToken:
        """Return a valid refresh token of the client.

        Raises:
            InvalidGrantError: It is not valid.
        """
        tokens = self.tokens
        found = tokens.sessions.refresh_tokens.get(refresh_token)
        if found is None or not found.check_client(self.request.client):
            raise InvalidGrantError("Invalid refresh token")
        if not tokens.is_session_valid(found.session):
            raise InvalidGrantError("Session not active")
        if found.used and tokens.realm.revoke_refresh_token:
            tokens.sessions.end(found.session)
            raise InvalidGrantError("Maximum allowed refresh token reuse exceeded")
        return found

    def authenticate_user(self, refresh_token: RefreshToken) -> User:
        """Return the user of a refresh token.

        Raises:
            InvalidGrantError: The user is disabled.
        """
        self.request.session = refresh_token.session
        return require_user(self.tokens.realm.users.get(refresh_token.session.user_id))

    def issue_token(self, user: User, refresh_token: RefreshToken) -> dict[str, Any]:
        """Return new tokens; the new refresh token keeps the scope of the old one."""
        scope = refresh_token.get_scope()
        requested = (self.request.payload.scope or scope).split()
        self.request.refresh_scope = scope
        return self.generate_token(user=user, scope=" ".join(s for s in requested if s in scope.split()))

    def revoke_old_credential(self, refresh_token: RefreshToken) -> None:
        """Mark it as used."""
        refresh_token.used = True


class RequiredChallenge(CodeChallenge):
    """PKCE with S256 (RFC 7636), required at the authorization endpoint."""

    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Refuse a request without an S256 challenge."""
        data = grant.request.payload.data
        if not data.get("code_challenge"):
            raise InvalidRequestError("Missing parameter: code_challenge")
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError(
                "Invalid parameter: code challenge method is not matching the configured one"
            )
        super().validate_code_challenge(grant, redirect_uri)

    def validate_code_verifier(self, grant: Any, result: Any) -> None:
        """Refuse a missing verifier like a wrong one."""
        if not CODE_VERIFIER_PATTERN.match(grant.request.form.get("code_verifier", "")):
            raise InvalidGrantError("PKCE code verifier not specified or malformed")
        super().validate_code_verifier(grant, result)


class AuthorizationCode(IssuerGrant, grants.AuthorizationCodeGrant):
    """RFC 6749 section 4.1; a code can be tried once (RFC 9700 section 2.1.1)."""

    def save_authorization_code(self, code: str, request: Any) -> None:
        """Store a code."""
        tokens = self.tokens
        tokens.sessions.codes[code] = Code(
            code=code,
            client_id=request.client.client_id,
            redirect_uri=request.form["redirect_uri"],
            scope=request.scope or "",
            session=request.session,
            expires_at=tokens.clock() + tokens.realm.access_code_lifespan,
            code_challenge=request.form.get("code_challenge", ""),
            nonce=request.form.get("nonce", ""),
        )

    def query_authorization_code(self, code: str, client: Client) -> Code:
        """Remove and return a code; its second use ends the session of the first.

        Raises:
            InvalidGrantError: There is no such code.
        """
        tokens = self.tokens
        spent = tokens.sessions.spent_codes.get(code)
        if spent is not None:
            tokens.sessions.end(spent)
            raise InvalidGrantError("Code not valid")
        found = tokens.sessions.codes.pop(code, None)
        if found is None or found.client_id != client.client_id or tokens.clock() >= found.expires_at:
            raise InvalidGrantError("Code not valid")
        if not tokens.is_session_valid(found.session):
            raise InvalidGrantError("Session not active")
        tokens.sessions.spent_codes[code] = found.session
        self.request.session = found.session
        self.request.nonce = found.nonce
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """Do nothing: query_authorization_code has removed it."""

    def authenticate_user(self, authorization_code: Code) -> User:
        """Return the user of a code.

        Raises:
            InvalidGrantError: The user is disabled.
        """
        return require_user(self.tokens.realm.users.get(authorization_code.session.user_id))
