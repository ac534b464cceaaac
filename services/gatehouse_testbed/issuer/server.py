"""Authlib's authorization server with the realm behind it, answering errors as Keycloak does."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    OAuth2Error,
    OAuth2Request,
    UnauthorizedClientError,
    grants,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6749.util import extract_basic_authorization
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7636.challenge import CODE_VERIFIER_PATTERN
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from starlette.responses import JSONResponse, RedirectResponse, Response

from gatehouse_testbed.issuer.realm import Client, User
from gatehouse_testbed.issuer.sessions import Code, RefreshToken, Session
from gatehouse_testbed.issuer.tokens import OPENID, Tokens


class IssuerRequest(OAuth2Request):
    """A request in Authlib's words."""

    def __init__(self, method: str, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> None:
        # Authlib asks for https; this issuer listens on loopback only, where http is no less safe.
        super().__init__(method, "https" + url.removeprefix("http"), headers=headers)
        self._form = dict(form)
        self.payload = BasicOAuth2Payload(self._form)
        self.session: Session | None = None
        self.nonce = ""
        self.kept_scope: str | None = None

    @property
    def args(self) -> dict[str, str]:
        """Query parameters; they stand in the form as well."""
        return self._form

    @property
    def form(self) -> dict[str, str]:
        """Form parameters."""
        return self._form


class IssuerServer(AuthorizationServer):
    """The authorization server of a realm.

    Args:
        tokens: Makes and judges tokens.
    """

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens
        self.register_token_generator("default", self._generate)
        for grant in (ClientCredentials, Password, Refresh):
            self.register_grant(grant)
        self.register_grant(AuthorizationCode, [RequiredChallenge(required=True)])
        self.register_endpoint(Introspection)
        self.register_endpoint(Revocation)
        self._request: IssuerRequest | None = None

    def query_client(self, client_id: str) -> Client | None:
        """Returns an enabled client."""
        client = self.tokens.realm.clients.get(client_id)
        return client if client is not None and client.enabled else None

    def create_oauth2_request(self, request: IssuerRequest) -> IssuerRequest:
        """Takes the request that the web layer has made, and keeps it for the token generator."""
        self._request = request
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        """Makes Starlette's response."""
        kept = dict(headers or ())
        if status in {302, 303}:
            return RedirectResponse(kept["Location"], status_code=302)
        if body is None:
            return Response(status_code=status, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})
        if isinstance(body, str):
            body = json.loads(body) if body else {}
        if isinstance(body, list):
            body = dict(body)
        return JSONResponse(body, status, {"Cache-Control": "no-store", "Pragma": "no-cache"})

    def handle_error_response(self, request: IssuerRequest, error: OAuth2Error) -> Response:
        """Answers with an error, which is never without a description."""
        error.description = error.get_error_description() or error.error.replace("_", " ").capitalize()
        response: Response = super().handle_error_response(request, error)
        return response

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def save_token(self, token: Mapping[str, Any], request: IssuerRequest) -> None:
        """Tokens are signed, or were kept when they were made."""

    def authenticate_client(
        self, request: IssuerRequest, methods: list[str], endpoint: str = "token"
    ) -> Client:
        """Authenticates a client by Basic or form (RFC 6749 section 2.3.1), with Keycloak's errors.

        Raises:
            InvalidClientError: The client is unknown, disabled, or did not say who it is.
            UnauthorizedClientError: Its secret is wrong; InvalidClientError at the introspection endpoint.
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
        if client.public:
            request.auth_method = "none"
            if "none" not in methods:
                raise InvalidRequestError("Client not allowed.", status_code=403)
            return client
        if not secret or not client.check_client_secret(secret):
            raise wrong("Invalid client or Invalid client credentials", status_code=401)
        return client

    def validate_requested_scope(self, scope: str | None) -> None:
        """Refuses scopes that are not the client's."""
        request = self._request
        if request is not None and request.client is not None:
            self.tokens.check_scope(request.client, scope)

    def _generate(
        self,
        grant_type: str,
        client: Client,
        user: User | None = None,
        scope: str | None = None,
        expires_in: int | None = None,  # noqa: ARG002 - Authlib's signature
        include_refresh_token: bool = True,  # noqa: FBT001, FBT002 - Authlib's signature
    ) -> dict[str, Any]:
        request = self._request
        assert request is not None  # noqa: S101 - a grant runs within a request
        asked = scope or ""
        session = request.session
        if user is None:
            user = self.tokens.realm.service_account(client.client_id)
            if user is None or not user.enabled:
                raise UnauthorizedClientError(
                    "Client not enabled to retrieve service account", status_code=401
                )
        elif session is None:
            session = self.tokens.sessions.open(user.user_id, self.tokens.clock())
        access, seconds, text = self.tokens.access_token(client, user, asked, session)
        answer: dict[str, Any] = {
            "access_token": access,
            "expires_in": seconds,
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": text,
        }
        if session is not None and grant_type != "client_credentials":
            session.last_used = self.tokens.clock()
            answer["session_state"] = session.sid
            if include_refresh_token:
                kept = asked if request.kept_scope is None else request.kept_scope
                answer["refresh_token"] = self.tokens.refresh_token(client, kept, session)
                answer["refresh_expires_in"] = self.tokens.realm.session_idle_seconds
            if OPENID in asked.split():
                answer["id_token"] = self.tokens.id_token(client, user, asked, session, request.nonce, access)
        return answer


_METHODS = ["client_secret_basic", "client_secret_post"]
_HINTS = frozenset({"access_token", "refresh_token", "requesting_party_token"})
_GRANT_REFUSED = "Invalid user credentials"


class ClientCredentials(grants.ClientCredentialsGrant):
    """RFC 6749 section 4.4."""

    TOKEN_ENDPOINT_AUTH_METHODS = [*_METHODS, "none"]

    def validate_token_request(self) -> None:
        """Refuses public clients as Keycloak does, then as Authlib does."""
        client = self.authenticate_token_endpoint_client()
        if client.public:
            raise UnauthorizedClientError(
                "Public client not allowed to retrieve service account", status_code=401
            )
        if not client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError("Client not enabled to retrieve service account", status_code=401)
        self.request.client = client
        self.validate_requested_scope()


class Password(grants.ResourceOwnerPasswordCredentialsGrant):
    """RFC 6749 section 4.3; legacy, for clients that the realm allows it to."""

    TOKEN_ENDPOINT_AUTH_METHODS = [*_METHODS, "none"]

    def validate_token_request(self) -> None:
        """Refuses a request without a name as Keycloak does; a missing password is an empty one."""
        self.request.form.setdefault("password", "")
        try:
            super().validate_token_request()
        except InvalidRequestError as error:
            error.status_code = 401
            raise

    def authenticate_user(self, username: str, password: str) -> User:
        """Checks name and password.

        Raises:
            InvalidGrantError: As Keycloak does.
        """
        user = self.server.tokens.realm.user_named(username)
        good = hmac.compare_digest(password.encode(), (user.password if user else "").encode())
        if user is None or not user.password or not good:
            # Keycloak says 401 here since version 20.
            raise InvalidGrantError(_GRANT_REFUSED, status_code=400)
        if not user.enabled:
            raise InvalidGrantError("Account disabled", status_code=400)
        found: User = user
        return found


class Refresh(grants.RefreshTokenGrant):
    """RFC 6749 section 6, with rotation: a refresh token that is used twice ends its session."""

    TOKEN_ENDPOINT_AUTH_METHODS = [*_METHODS, "none"]

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshToken:
        """Returns a refresh token that is good.

        Raises:
            InvalidGrantError: As Keycloak does.
        """
        tokens: Tokens = self.server.tokens
        found = tokens.sessions.refresh_tokens.get(refresh_token)
        if found is None or not found.check_client(self.request.client):
            raise InvalidGrantError("Invalid refresh token")
        if not tokens.session_is_good(found.session):
            raise InvalidGrantError("Session not active")
        if found.used and tokens.realm.rotates_refresh_tokens:
            tokens.sessions.end(found.session)
            raise InvalidGrantError("Maximum allowed refresh token reuse exceeded")
        return found

    def authenticate_user(self, refresh_token: RefreshToken) -> User:
        """Returns the user of a refresh token.

        Raises:
            InvalidGrantError: The user is gone or disabled.
        """
        user = self.server.tokens.realm.users.get(refresh_token.session.user_id)
        if user is None or not user.enabled:
            raise InvalidGrantError("User disabled")
        self.request.session = refresh_token.session
        found: User = user
        return found

    def _validate_token_scope(self, token: RefreshToken) -> None:  # noqa: ARG002 - Authlib's signature
        # Authlib refuses what was not granted. Keycloak drops it, and refuses what the client cannot have.
        tokens: Tokens = self.server.tokens
        tokens.check_scope(self.request.client, self.request.payload.scope)

    def issue_token(self, user: User, refresh_token: RefreshToken) -> dict[str, Any]:
        """Makes the tokens; the new refresh token stands for as much as the old one."""
        kept = refresh_token.get_scope()
        asked = (self.request.payload.scope or kept).split()
        self.request.kept_scope = kept
        token: dict[str, Any] = self.generate_token(
            user=user, scope=" ".join(s for s in asked if s in kept.split()), include_refresh_token=True
        )
        return token

    def revoke_old_credential(self, refresh_token: RefreshToken) -> None:
        """Marks it used."""
        refresh_token.used = True


class RequiredChallenge(CodeChallenge):
    """PKCE with S256 only (RFC 7636), asked for at the authorization endpoint already."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        """Refuses a request without an S256 challenge."""
        data = grant.request.payload.data
        if not data.get("code_challenge"):
            raise InvalidRequestError("Missing parameter: code_challenge")
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError(
                "Invalid parameter: code challenge method is not matching the configured one"
            )
        super().validate_code_challenge(grant, redirect_uri)

    def validate_code_verifier(self, grant: Any, result: Any) -> None:
        """Refuses a request without a verifier as one with a wrong one."""
        if not CODE_VERIFIER_PATTERN.match(grant.request.form.get("code_verifier", "")):
            raise InvalidGrantError("PKCE code verifier not specified or malformed")
        super().validate_code_verifier(grant, result)


class AuthorizationCode(grants.AuthorizationCodeGrant):
    """RFC 6749 section 4.1; the code is good for one try (RFC 9700 section 2.1.1)."""

    TOKEN_ENDPOINT_AUTH_METHODS = [*_METHODS, "none"]

    def save_authorization_code(self, code: str, request: IssuerRequest) -> None:
        """Keeps a code."""
        tokens: Tokens = self.server.tokens
        assert request.session is not None  # noqa: S101 - the login page has opened it
        tokens.sessions.codes[code] = Code(
            code=code,
            client_id=request.client.client_id,
            redirect_uri=request.form["redirect_uri"],
            scope=request.scope or "",
            session=request.session,
            expires_at=tokens.clock() + tokens.realm.code_seconds,
            code_challenge=request.form.get("code_challenge", ""),
            nonce=request.form.get("nonce", ""),
        )

    def query_authorization_code(self, code: str, client: Client) -> Code:
        """Takes a code: whatever comes of it, it is gone. A second use ends the session of the first.

        Raises:
            InvalidGrantError: There is no such code.
        """
        tokens: Tokens = self.server.tokens
        spent = tokens.sessions.spent_codes.get(code)
        if spent is not None:
            tokens.sessions.end(spent)
            raise InvalidGrantError("Code not valid")
        found = tokens.sessions.codes.pop(code, None)
        if found is None or found.client_id != client.client_id or tokens.clock() >= found.expires_at:
            raise InvalidGrantError("Code not valid")
        if not tokens.session_is_good(found.session):
            raise InvalidGrantError("Session not active")
        tokens.sessions.spent_codes[code] = found.session
        self.request.session = found.session
        self.request.nonce = found.nonce
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """It is gone already."""

    def authenticate_user(self, authorization_code: Code) -> User:
        """Returns the user of a code.

        Raises:
            InvalidGrantError: The user is gone or disabled.
        """
        user = self.server.tokens.realm.users.get(authorization_code.session.user_id)
        if user is None or not user.enabled:
            raise InvalidGrantError("User disabled")
        found: User = user
        return found


class Introspection(IntrospectionEndpoint):
    """RFC 7662; only confidential clients may ask."""

    CLIENT_AUTH_METHODS = _METHODS

    def check_params(self, request: IssuerRequest, client: Client) -> None:  # noqa: ARG002 - Authlib's signature
        """Refuses a request without token, or with a hint that means nothing."""
        if "token" not in request.form:
            raise InvalidRequestError("Token not provided")
        if request.form.get("token_type_hint", "access_token") not in _HINTS:
            raise InvalidRequestError("Unsupported token type")

    def query_token(self, token_string: str, token_type_hint: str | None) -> str:  # noqa: ARG002 - Authlib's signature
        """Hands the token on."""
        return token_string

    def check_permission(self, token: str, client: Client, request: IssuerRequest) -> bool:  # noqa: ARG002 - Authlib's signature
        """Hands the decision on: who may see a token stands in the token."""
        return True

    def create_endpoint_response(self, request: IssuerRequest) -> Any:
        """Answers with what the token is worth now."""
        client = self.authenticate_endpoint_client(request)
        self.check_params(request, client)
        hint = request.form.get("token_type_hint", "access_token")
        return 200, self.server.tokens.introspect(request.form["token"], client, hint), []


class Revocation(RevocationEndpoint):
    """RFC 7009: an access token alone, a refresh token with its session."""

    CLIENT_AUTH_METHODS = [*_METHODS, "none"]

    def create_endpoint_response(self, request: IssuerRequest) -> Any:
        """Revokes the token of the client that asks."""
        client = self.authenticate_endpoint_client(request)
        if "token" not in request.form:
            raise InvalidRequestError("Token not provided")
        tokens: Tokens = self.server.tokens
        value = request.form["token"]
        refresh = tokens.sessions.refresh_tokens.get(value)
        claims = None if refresh is not None else tokens.keys.verify(value)
        owner = refresh.client_id if refresh is not None else (claims or {}).get("azp")
        if owner is None:
            # RFC 7009 section 2.2 wants 200 for an unknown token; so does Keycloak, and says why.
            return 200, {"error": "invalid_token", "error_description": "Invalid token"}, []
        if owner != client.client_id:
            raise InvalidRequestError("Unmatching clients")
        if refresh is not None:
            tokens.sessions.end(refresh.session)
        elif claims is not None:
            tokens.sessions.revoked[claims["jti"]] = True
        return 200, None, []


__all__ = ["IssuerRequest", "IssuerServer", "OAuth2Error"]
