"""The issuer's web side, under Keycloak's addresses: discovery, keys, tokens, a login page."""

from __future__ import annotations

import hmac
import html
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from authlib.common.urls import add_params_to_uri
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gatehouse_testbed.issuer._web import error_response, read_form
from gatehouse_testbed.issuer.admin import AdminApi
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Client, Realm, User
from gatehouse_testbed.issuer.server import IssuerRequest, IssuerServer, OAuth2Error
from gatehouse_testbed.issuer.sessions import Bounded, Session, Sessions
from gatehouse_testbed.issuer.tokens import Tokens

_SSO = "GATEHOUSE_SSO"
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px system-ui;margin:10vh auto;max-width:22rem;padding:0 1rem}}
input,button{{display:block;width:100%;box-sizing:border-box;font:inherit;padding:.5rem;margin:.3rem 0 1rem}}
.error{{color:#b00020}}small{{color:#555}}</style>
<h1>{title}</h1>{body}<small>Development issuer. Not for production.</small></html>"""


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=html.escape(title), body=body), status, _SECURITY)


@dataclass(frozen=True, slots=True)
class _Pending:
    """An authorization request whose login page is shown; `session` is whom a person is signed in as."""

    form: dict[str, str]
    session: Session | None


class _Issuer:
    """The handlers of one realm."""

    def __init__(self, realm: Realm, base_url: str, clock: Callable[[], float]) -> None:
        self.realm = realm
        self.base = f"{base_url.rstrip('/')}/realms/{realm.name}"
        self.protocol = f"{self.base}/protocol/openid-connect"
        self.clock = clock
        self.keys = SigningKeys()
        self.keys.add("ES256", 100)
        self.keys.add("RS256", 90)
        self.sessions = Sessions()
        self.tokens = Tokens(realm, self.base, self.keys, self.sessions, clock)
        self.server = IssuerServer(self.tokens)
        self.pending: Bounded[_Pending] = Bounded()
        self.logouts: Bounded[bool] = Bounded()

    async def discovery(self, _: Request) -> Response:
        at = self.protocol
        methods = ["client_secret_basic", "client_secret_post"]
        return JSONResponse(
            {
                "issuer": self.base,
                "authorization_endpoint": f"{at}/auth",
                "token_endpoint": f"{at}/token",
                "introspection_endpoint": f"{at}/token/introspect",
                "userinfo_endpoint": f"{at}/userinfo",
                "end_session_endpoint": f"{at}/logout",
                "jwks_uri": f"{at}/certs",
                "revocation_endpoint": f"{at}/revoke",
                "grant_types_supported": [
                    "authorization_code",
                    "client_credentials",
                    "refresh_token",
                    "password",
                ],
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "RS256"],
                "token_endpoint_auth_methods_supported": methods,
                "introspection_endpoint_auth_methods_supported": methods,
                "revocation_endpoint_auth_methods_supported": methods,
                "scopes_supported": ["openid", *(s.name for s in self.realm.scopes.values() if s.in_token)],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def certs(self, _: Request) -> Response:
        return JSONResponse(self.keys.jwks(), headers={"Cache-Control": "no-cache"})

    async def about(self, _: Request) -> Response:
        return JSONResponse({"realm": self.realm.name, "token-service": self.protocol, "development": True})

    # -- token, introspection, revocation: Authlib's endpoints

    async def _oauth(self, request: Request) -> IssuerRequest | Response:
        form = await read_form(request)
        if isinstance(form, Response):
            return form
        # Authlib's names for headers are those of the RFCs, Starlette's are in lower case.
        headers = {"Authorization": request.headers.get("authorization", "")}
        return IssuerRequest(request.method, str(request.url), form, headers)

    async def token(self, request: Request) -> Response:
        asked = await self._oauth(request)
        if isinstance(asked, Response):
            return asked
        if "grant_type" not in asked.form:
            return error_response(400, "invalid_request", "Missing form parameter: grant_type")
        response: Response = self.server.create_token_response(asked)
        return response

    async def introspect(self, request: Request) -> Response:
        return await self._endpoint("introspection", request)

    async def revoke(self, request: Request) -> Response:
        return await self._endpoint("revocation", request)

    async def _endpoint(self, name: str, request: Request) -> Response:
        asked = await self._oauth(request)
        if isinstance(asked, Response):
            return asked
        # Authlib makes the request itself from the framework's; ours is made already.
        for endpoint in self.server._endpoints[name]:  # noqa: SLF001 - there is no public way past it
            try:
                status, body, headers = endpoint.create_endpoint_response(asked)
            except OAuth2Error as error:
                return self.server.handle_error_response(asked, error)
            response: Response = self.server.handle_response(status, body, headers)
            return response
        raise LookupError(name)

    # -- authorization endpoint and login page

    def _session_of(self, request: Request) -> Session | None:
        session = self.sessions.sessions.get(request.cookies.get(_SSO, ""))
        return session if session is not None and self.tokens.session_is_good(session) else None

    async def authorize(self, request: Request) -> Response:
        form = dict(request.query_params)
        client = self.server.query_client(form.get("client_id", ""))
        if client is None:
            return _page("We are sorry", "<p class=error>Client not found.</p>", 400)
        if not client.check_redirect_uri(form.get("redirect_uri", "")):
            return _page("We are sorry", "<p class=error>Invalid parameter: redirect_uri</p>", 400)
        fault = self._fault(request, form, client)
        if fault is not None:
            return self._back(form, fault)
        session = self._session_of(request)
        prompt = form.get("prompt", "").split()
        if session is not None and "login" not in prompt and self._young_enough(form, session):
            # As Keycloak says it: the cookie answered, nobody showed a password for this request.
            session.acr = "0"
            return self._answer(form, client, session)
        if "none" in prompt:
            return self._back(form, {"error": "login_required"})
        code = secrets.token_urlsafe(24)
        self.pending[code] = _Pending(form, session)
        return self._login_page(code, "")

    def _fault(self, request: Request, form: dict[str, str], client: Client) -> dict[str, str] | None:
        """Returns the error that an authorization request is sent back with, or None."""
        fault = _response_type_fault(form)
        if fault is not None:
            return {"error": fault}
        asked = IssuerRequest("GET", str(request.url), form, {})
        try:
            self.server.create_oauth2_request(asked)
            asked.client = client
            grant = self.server.get_authorization_grant(asked)
            grant.validate_authorization_request()
        except OAuth2Error as error:
            return {"error": error.error, "error_description": error.description or ""}
        return None

    def _young_enough(self, form: dict[str, str], session: Session) -> bool:
        limit = form.get("max_age", "")
        return not limit.isdigit() or int(self.clock()) - (session.auth_time or 0) <= int(limit)

    def _login_page(self, code: str, error: str) -> HTMLResponse:
        action = html.escape(f"{self.base}/login-actions/authenticate?{urlencode({'session_code': code})}")
        note = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
        again = self.pending[code].session
        name = '<label>Name <input name="username" autocomplete="username" required autofocus></label>'
        if again is not None:
            name = f"<p>You are {html.escape(self.realm.users[again.user_id].username)}.</p>"
        return _page(
            "Sign in to Gatehouse",
            f'{note}<form method="post" action="{action}">{name}'
            '<label>Password <input name="password" type="password" autocomplete="current-password" required>'
            '</label><button type="submit">Sign in</button></form>',
        )

    async def authenticate(self, request: Request) -> Response:
        code = request.query_params.get("session_code", "")
        pending = self.pending.get(code)
        if pending is None:
            return _page("We are sorry", "<p class=error>This page has expired. Begin again.</p>", 400)
        login = await read_form(request)
        if isinstance(login, Response):
            return login
        # Who is signed in already is asked for the password alone.
        user = (
            self.realm.user_named(login.get("username", ""))
            if pending.session is None
            else self.realm.users[pending.session.user_id]
        )
        good = hmac.compare_digest(
            login.get("password", "").encode(), (user.password if user else "").encode()
        )
        if user is None or not user.password or not good:
            return self._login_page(code, "Invalid username or password.")
        if not user.enabled:
            return self._login_page(code, "Account is disabled, contact your administrator.")
        del self.pending[code]
        session = pending.session
        if session is None or not session.alive:
            session = self.sessions.open(user.user_id, self.clock())
        session.signed_in(self.clock())
        response = self._answer(pending.form, self.realm.clients[pending.form["client_id"]], session)
        response.set_cookie(
            _SSO, session.sid, httponly=True, samesite="lax", path=f"/realms/{self.realm.name}"
        )
        return response

    def _answer(self, form: dict[str, str], client: Client, session: Session) -> Response:
        asked = IssuerRequest("POST", self.base, form, {})
        self.server.create_oauth2_request(asked)
        asked.client, asked.session, asked.scope = client, session, form.get("scope", "")
        user: User = self.realm.users[session.user_id]
        grant = self.server.get_authorization_grant(asked)
        response: Response = self.server.create_authorization_response(asked, user, grant)
        location = add_params_to_uri(
            response.headers["location"], [("session_state", session.sid), ("iss", self.base)]
        )
        return RedirectResponse(location, 302)

    def _back(self, form: dict[str, str], answer: dict[str, str]) -> Response:
        if form.get("state"):
            answer["state"] = form["state"]
        answer["iss"] = self.base
        in_fragment = bool({"token", "id_token"} & set(form.get("response_type", "").split()))
        target = add_params_to_uri(form["redirect_uri"], list(answer.items()), fragment=in_fragment)
        return RedirectResponse(target, 302)

    # -- userinfo, logout

    async def userinfo(self, request: Request) -> Response:
        if "authorization" not in request.headers:
            return Response(
                status_code=401, headers={"WWW-Authenticate": f'Bearer realm="{self.realm.name}"'}
            )
        scheme, _, token = request.headers["authorization"].partition(" ")
        claims = self.keys.verify(token) if scheme.lower() == "bearer" else None
        session = self.sessions.sessions.get(str((claims or {}).get("sid")))
        if claims is None or session is None or not self.tokens.session_is_good(session):
            return self._challenge(401, "invalid_token")
        if self.clock() >= claims["exp"] + 1 or claims["jti"] in self.sessions.revoked:
            return self._challenge(401, "invalid_token")
        if "openid" not in claims["scope"].split():
            return self._challenge(403, "insufficient_scope")
        user = self.realm.users[session.user_id]
        if not user.enabled:
            return self._challenge(401, "invalid_token")
        client = self.realm.clients[claims["azp"]]
        return JSONResponse(self.tokens.userinfo(client, user, claims["scope"], session))

    def _challenge(self, status: int, error: str) -> Response:
        header = f'Bearer realm="{self.realm.name}", error="{error}"'
        return JSONResponse({"error": error}, status, {"WWW-Authenticate": header})

    async def logout(self, request: Request) -> Response:
        """RP-initiated logout (OpenID Connect RP-Initiated Logout 1.0), or by refresh token."""
        form: dict[str, str] = dict(request.query_params)
        if request.method == "POST":
            asked = await self._oauth(request)
            if isinstance(asked, Response):
                return asked
            if "refresh_token" in asked.form:
                return self._logout_by_refresh_token(asked)
            form = asked.form
        if "id_token_hint" not in form:
            return self._ask_before_logout()
        return self._logout_by_hint(form)

    def _logout_by_hint(self, form: dict[str, str]) -> Response:
        claims = self.keys.verify(form["id_token_hint"])
        client = self.realm.clients.get(str((claims or {}).get("azp")))
        if claims is None or claims.get("typ") != "ID" or client is None:
            return _page("We are sorry", "<p class=error>Invalid parameter: id_token_hint</p>", 400)
        target = form.get("post_logout_redirect_uri")
        if target is not None and not client.check_logout_uri(target):
            return _page("We are sorry", "<p class=error>Invalid redirect uri</p>", 400)
        session = self.sessions.sessions.get(claims["sid"])
        if session is not None:
            self.sessions.end(session)
        if target is None:
            return _page("Logged out", "<p>You are logged out.</p>")
        state = [("state", form["state"])] if form.get("state") else []
        return RedirectResponse(add_params_to_uri(target, state), 302)

    def _ask_before_logout(self) -> Response:
        # Whoever links here must not be able to log a person out unseen, so only this page's own form can.
        code = secrets.token_urlsafe(24)
        self.logouts[code] = True
        return _page(
            "Log out",
            f'<form method="post" action="{html.escape(self.protocol)}/logout/logout-confirm">'
            f'<input type="hidden" name="session_code" value="{code}">'
            '<p>Do you want to log out?</p><button type="submit">Log out</button></form>',
        )

    async def confirm_logout(self, request: Request) -> Response:
        """The answer to the page that asks first."""
        form = await read_form(request)
        if isinstance(form, Response):
            return form
        if self.logouts.pop(form.get("session_code", ""), None) is None:
            return _page("We are sorry", "<p class=error>This page has expired. Begin again.</p>", 400)
        session = self._session_of(request)
        if session is not None:
            self.sessions.end(session)
        return _page("Logged out", "<p>You are logged out.</p>")

    def _logout_by_refresh_token(self, asked: IssuerRequest) -> Response:
        try:
            client = self.server.authenticate_client(asked, ["client_secret_basic", "none"])
        except OAuth2Error as error:
            response: Response = self.server.handle_error_response(asked, error)
            return response
        token = self.sessions.refresh_tokens.get(asked.form.get("refresh_token", ""))
        if token is None or not token.check_client(client):
            return error_response(400, "invalid_grant", "Invalid refresh token")
        self.sessions.end(token.session)
        return Response(status_code=204)


def _response_type_fault(form: dict[str, str]) -> str | None:
    """Returns Keycloak's error for a response type that is missing, unknown or, as all but `code`, off."""
    asked = form.get("response_type", "").split()
    if not asked:
        return "invalid_request"
    if not {"code", "token", "id_token", "none"}.issuperset(asked):
        return "unsupported_response_type"
    return None if asked == ["code"] else "unauthorized_client"


def create_app(
    realm: Realm,
    *,
    base_url: str,
    clock: Callable[[], float] = time.time,
    admin_password: str | None = None,
) -> Starlette:
    """Makes the issuer's web application.

    Args:
        realm: What it knows.
        base_url: Where it is reached, such as `http://127.0.0.1:8080`.
        clock: Seconds since the epoch.
        admin_password: Password of `admin` for the admin calls; with None there is no such user, and only
            service accounts with roles of `realm-management` can make those calls that they may.
    """
    issuer = _Issuer(realm, base_url, clock)
    root, at = f"/realms/{realm.name}", f"/realms/{realm.name}/protocol/openid-connect"
    routes = [
        Route(root, issuer.about),
        Route(f"{root}/.well-known/openid-configuration", issuer.discovery),
        Route(f"{root}/.well-known/oauth-authorization-server", issuer.discovery),
        Route(f"/.well-known/oauth-authorization-server{root}", issuer.discovery),
        Route(f"{at}/certs", issuer.certs),
        Route(f"{at}/auth", issuer.authorize),
        Route(f"{root}/login-actions/authenticate", issuer.authenticate, methods=["POST"]),
        Route(f"{at}/token", issuer.token, methods=["POST"]),
        Route(f"{at}/token/introspect", issuer.introspect, methods=["POST"]),
        Route(f"{at}/revoke", issuer.revoke, methods=["POST"]),
        Route(f"{at}/userinfo", issuer.userinfo, methods=["GET", "POST"]),
        Route(f"{at}/logout", issuer.logout, methods=["GET", "POST"]),
        Route(f"{at}/logout/logout-confirm", issuer.confirm_logout, methods=["POST"]),
    ]
    routes += AdminApi(issuer.tokens, clock, admin_password).routes()

    async def unknown(request: Request, _: Exception) -> Response:
        known = request.url.path.startswith((f"{root}/", "/admin/"))
        return error_response(404, "HTTP 404 Not Found" if known else "Realm does not exist")

    async def not_so(_: Request, error: Exception) -> Response:
        allow = getattr(error, "headers", None) or {}
        return JSONResponse({"error": "HTTP 405 Method Not Allowed"}, 405, allow)

    return Starlette(routes=routes, exception_handlers={404: unknown, 405: not_so})
