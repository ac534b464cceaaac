"""Login and logout in a browser: the authorization endpoint, the login page, RP-initiated logout."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749 import OAuth2Error
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gatehouse_testbed.issuer import pages
from gatehouse_testbed.issuer.forms import Refusal, read_form
from gatehouse_testbed.issuer.realm import Client
from gatehouse_testbed.issuer.server import IssuerRequest, IssuerServer
from gatehouse_testbed.issuer.sessions import Bounded, Session

_COOKIE = "GATEHOUSE_SSO"


@dataclass(frozen=True, slots=True)
class _Pending:
    """A login page that is shown; `session` is that of a user who logs in again."""

    session: Session | None
    finish: Callable[[Session], Response]


class Login:
    """The pages of one realm.

    Args:
        server: The authorization server.
        issuer: Issuer URL.
        protocol_url: URL below which the endpoints are.
    """

    def __init__(self, server: IssuerServer, issuer: str, protocol_url: str) -> None:
        self._server = server
        self._tokens = server.tokens
        self._realm = server.tokens.realm
        self._sessions = server.tokens.sessions
        self._clock = server.tokens.clock
        self._issuer = issuer
        self._protocol_url = protocol_url
        self._pending: Bounded[_Pending] = Bounded()
        self._logouts: Bounded[bool] = Bounded()

    def session_of(self, request: Request) -> Session | None:
        """Return the session of a browser."""
        session = self._sessions.sessions.get(request.cookies.get(_COOKIE, ""))
        return session if session is not None and self._tokens.is_session_valid(session) else None

    # Authorization endpoint and login page

    async def authorize(self, request: Request) -> Response:
        """Answer an authorization request (RFC 6749 section 4.1.1)."""
        form = dict(request.query_params)
        client = self._server.query_client(form.get("client_id", ""))
        if client is None:
            return pages.error_page("Client not found.")
        if not client.check_redirect_uri(form.get("redirect_uri", "")):
            return pages.error_page("Invalid parameter: redirect_uri")
        error = self._error(request, form, client)
        if error is not None:
            return self._redirect(form, error)
        session = self.session_of(request)
        prompt = form.get("prompt", "").split()
        if session is not None and "login" not in prompt and self._is_recent(form, session):
            # As in Keycloak: the cookie was enough, no password was entered for this request.
            session.acr = "0"
            return self._redirect_with_code(form, client, session)
        if "none" in prompt:
            return self._redirect(form, {"error": "login_required"})
        return self.page(lambda session: self._redirect_with_code(form, client, session), session)

    def page(self, finish: Callable[[Session], Response], session: Session | None = None) -> Response:
        """Return a login page.

        Args:
            finish: Makes the response after the login.
            session: The session of a user who logs in again.
        """
        code = secrets.token_urlsafe(24)
        self._pending[code] = _Pending(session, finish)
        return self._login_page(code, "")

    def _error(self, request: Request, form: dict[str, str], client: Client) -> dict[str, str] | None:
        """Return the error of an authorization request, None if it is valid."""
        error = _response_type_error(form)
        if error is not None:
            return {"error": error}
        authorization = IssuerRequest("GET", str(request.url), form, {})
        try:
            authorization.client = client
            self._server.get_authorization_grant(authorization).validate_authorization_request()
        except OAuth2Error as refused:
            return {"error": refused.error, "error_description": refused.description or ""}
        return None

    def _is_recent(self, form: dict[str, str], session: Session) -> bool:
        limit = form.get("max_age", "")
        return not limit.isdigit() or int(self._clock()) - (session.auth_time or 0) <= int(limit)

    def _login_page(self, code: str, error: str) -> Response:
        session = self._pending[code].session
        username = None if session is None else self._realm.users[session.user_id].username
        query = urlencode({"session_code": code})
        return pages.login_page(f"{self._issuer}/login-actions/authenticate?{query}", username, error)

    async def authenticate(self, request: Request) -> Response:
        """Answer the form of the login page."""
        code = request.query_params.get("session_code", "")
        pending = self._pending.get(code)
        if pending is None:
            return pages.expired_page()
        login = await read_form(request)
        user = (
            self._realm.user_named(login.get("username", ""))
            if pending.session is None
            else self._realm.users[pending.session.user_id]
        )
        password = user.password if user is not None else ""
        correct = hmac.compare_digest(login.get("password", "").encode(), password.encode())
        if user is None or not user.password or not correct:
            return self._login_page(code, "Invalid username or password.")
        if not user.enabled:
            return self._login_page(code, "Account is disabled, contact your administrator.")
        del self._pending[code]
        session = pending.session
        if session is None or not session.active:
            session = self._sessions.open(user.user_id, self._clock())
        session.record_login(self._clock())
        response = pending.finish(session)
        response.set_cookie(
            _COOKIE, session.sid, httponly=True, samesite="lax", path=f"/realms/{self._realm.name}"
        )
        return response

    def _redirect_with_code(self, form: dict[str, str], client: Client, session: Session) -> Response:
        authorization = IssuerRequest("POST", self._issuer, form, {})
        authorization.client, authorization.session = client, session
        grant = self._server.get_authorization_grant(authorization)
        user = self._realm.users[session.user_id]
        response = self._server.create_authorization_response(authorization, user, grant)
        location = add_params_to_uri(
            response.headers["location"], [("session_state", session.sid), ("iss", self._issuer)]
        )
        return RedirectResponse(location, 302)

    def _redirect(self, form: dict[str, str], answer: dict[str, str]) -> Response:
        if form.get("state"):
            answer["state"] = form["state"]
        answer["iss"] = self._issuer
        in_fragment = bool({"token", "id_token"} & set(form.get("response_type", "").split()))
        target = add_params_to_uri(form["redirect_uri"], list(answer.items()), fragment=in_fragment)
        return RedirectResponse(target, 302)

    # Logout

    async def logout(self, request: Request) -> Response:
        """Log out by ID token (OpenID Connect RP-Initiated Logout 1.0) or by refresh token."""
        form: dict[str, str] = dict(request.query_params)
        if request.method == "POST":
            form = await read_form(request)
            if "refresh_token" in form:
                return self._logout_by_refresh_token(request, form)
        if "id_token_hint" in form:
            return self._logout_by_hint(form)
        # A link must not log a user out, only this form can.
        code = secrets.token_urlsafe(24)
        self._logouts[code] = True
        return pages.confirm_logout_page(f"{self._protocol_url}/logout/logout-confirm", code)

    def _logout_by_hint(self, form: dict[str, str]) -> Response:
        claims = self._tokens.keys.verify(form["id_token_hint"])
        client = self._realm.clients.get(str((claims or {}).get("azp")))
        if claims is None or claims.get("typ") != "ID" or client is None:
            return pages.error_page("Invalid parameter: id_token_hint")
        target = form.get("post_logout_redirect_uri")
        if target is not None and not client.check_logout_uri(target):
            return pages.error_page("Invalid redirect uri")
        session = self._sessions.sessions.get(claims["sid"])
        if session is not None:
            self._sessions.end(session)
        if target is None:
            return pages.logged_out_page()
        state = [("state", form["state"])] if form.get("state") else []
        return RedirectResponse(add_params_to_uri(target, state), 302)

    def _logout_by_refresh_token(self, request: Request, form: dict[str, str]) -> Response:
        asked = oauth2_request(request, form)
        try:
            client = self._server.authenticate_client(asked, ["client_secret_basic", "none"])
        except OAuth2Error as error:
            return self._server.handle_error_response(asked, error)
        token = self._sessions.refresh_tokens.get(form["refresh_token"])
        if token is None or not token.check_client(client):
            raise Refusal(400, "invalid_grant", "Invalid refresh token")
        self._sessions.end(token.session)
        return Response(status_code=204)

    async def confirm_logout(self, request: Request) -> Response:
        """Answer the page that asks before a logout."""
        form = await read_form(request)
        if self._logouts.pop(form.get("session_code", ""), None) is None:
            return pages.expired_page()
        session = self.session_of(request)
        if session is not None:
            self._sessions.end(session)
        return pages.logged_out_page()


def oauth2_request(request: Request, form: dict[str, str]) -> IssuerRequest:
    """Return a request to an OAuth endpoint, as Authlib reads it."""
    # Starlette's header names are lower-case, Authlib's are not.
    headers = {"Authorization": request.headers.get("authorization", "")}
    return IssuerRequest(request.method, str(request.url), form, headers)


def _response_type_error(form: dict[str, str]) -> str | None:
    """Return Keycloak's error for a missing, unknown or disabled response type; only `code` is enabled."""
    types = form.get("response_type", "").split()
    if not types:
        return "invalid_request"
    if not {"code", "token", "id_token", "none"}.issuperset(types):
        return "unsupported_response_type"
    return None if types == ["code"] else "unauthorized_client"
