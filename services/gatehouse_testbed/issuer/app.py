"""The web application of the issuer, with Keycloak's paths."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatehouse_testbed.issuer.admin import AdminApi
from gatehouse_testbed.issuer.client_auth import ASSERTION_ALGORITHMS, CLIENT_AUTH_METHODS
from gatehouse_testbed.issuer.device import DeviceAuthorization
from gatehouse_testbed.issuer.device_grant import DEVICE_CODE
from gatehouse_testbed.issuer.forms import Refusal, read_form
from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.login import Login, oauth2_request
from gatehouse_testbed.issuer.realm import Realm
from gatehouse_testbed.issuer.server import IssuerServer
from gatehouse_testbed.issuer.sessions import Sessions
from gatehouse_testbed.issuer.token_exchange import TOKEN_EXCHANGE
from gatehouse_testbed.issuer.tokens import OPENID, Tokens


class _Endpoints:
    """The endpoints of one realm that are not for browsers."""

    def __init__(self, server: IssuerServer, protocol_url: str, local_url: str, path: str) -> None:
        self._server = server
        self._tokens = server.tokens
        self._realm = server.tokens.realm
        self._protocol_url = protocol_url
        self._local_url = local_url
        self._path = path

    async def discovery(self, request: Request) -> Response:
        """Return the metadata (OpenID Connect Discovery 1.0, RFC 8414).

        In the answer at the local URL, all endpoints that are not for browsers are there, as in Keycloak with
        KC_HOSTNAME_BACKCHANNEL_DYNAMIC.
        """
        base = self._protocol_url
        is_local = f"http://{request.headers.get('host', '')}" == self._local_url
        direct = f"{self._local_url}{self._path}" if is_local else base
        methods, algorithms = CLIENT_AUTH_METHODS, ASSERTION_ALGORITHMS
        scopes = [scope.name for scope in self._realm.scopes.values() if scope.in_token]
        return JSONResponse(
            {
                "issuer": self._tokens.issuer,
                "authorization_endpoint": f"{base}/auth",
                "token_endpoint": f"{direct}/token",
                "device_authorization_endpoint": f"{base}/auth/device",
                "introspection_endpoint": f"{direct}/token/introspect",
                "userinfo_endpoint": f"{direct}/userinfo",
                "end_session_endpoint": f"{base}/logout",
                "jwks_uri": f"{direct}/certs",
                "revocation_endpoint": f"{direct}/revoke",
                "grant_types_supported": [
                    "authorization_code",
                    "client_credentials",
                    "refresh_token",
                    "password",
                    TOKEN_EXCHANGE,
                    DEVICE_CODE,
                ],
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "RS256"],
                "token_endpoint_auth_methods_supported": methods,
                "token_endpoint_auth_signing_alg_values_supported": algorithms,
                "introspection_endpoint_auth_methods_supported": methods,
                "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
                "revocation_endpoint_auth_methods_supported": methods,
                "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
                "scopes_supported": [OPENID, *scopes],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def certs(self, _: Request) -> Response:
        """Return the JWK Set (RFC 7517)."""
        return JSONResponse(self._tokens.keys.jwks(), headers={"Cache-Control": "no-cache"})

    async def about(self, _: Request) -> Response:
        """Return the name of the realm."""
        return JSONResponse(
            {"realm": self._realm.name, "token-service": self._protocol_url, "development": True}
        )

    async def token(self, request: Request) -> Response:
        """Issue tokens (RFC 6749 section 3.2)."""
        form = await read_form(request)
        if "grant_type" not in form:
            raise Refusal(400, "invalid_request", "Missing form parameter: grant_type")
        response: Response = self._server.create_token_response(oauth2_request(request, form))
        return response

    async def introspect(self, request: Request) -> Response:
        """Introspect a token (RFC 7662)."""
        return await self._endpoint("introspection", request)

    async def revoke(self, request: Request) -> Response:
        """Revoke a token (RFC 7009)."""
        return await self._endpoint("revocation", request)

    async def _endpoint(self, name: str, request: Request) -> Response:
        form = await read_form(request)
        response: Response = self._server.create_endpoint_response(name, oauth2_request(request, form))
        return response

    async def userinfo(self, request: Request) -> Response:
        """Return claims about the user of an access token (OpenID Connect Core 1.0 section 5.3)."""
        if "authorization" not in request.headers:
            return Response(
                status_code=401, headers={"WWW-Authenticate": f'Bearer realm="{self._realm.name}"'}
            )
        scheme, _, value = request.headers["authorization"].partition(" ")
        token = self._tokens.active(value) if scheme.lower() == "bearer" else None
        if token is None or token.session is None or token.claims["typ"] != "Bearer":
            return self._challenge(401, "invalid_token")
        if OPENID not in token.claims["scope"].split():
            return self._challenge(403, "insufficient_scope")
        return JSONResponse(self._tokens.userinfo(token, token.session))

    def _challenge(self, status: int, error: str) -> Response:
        header = f'Bearer realm="{self._realm.name}", error="{error}"'
        return JSONResponse({"error": error}, status, {"WWW-Authenticate": header})


def create_app(
    realm: Realm,
    *,
    base_url: str,
    local_url: str | None = None,
    clock: Callable[[], float] = time.time,
    admin_password: str | None = None,
    keys: SigningKeys | None = None,
) -> Starlette:
    """Return the web application of the issuer.

    Args:
        realm: Its realm.
        base_url: URL of the server, such as `http://127.0.0.1:8080`.
        local_url: URL of the server for clients on the same machine; the same if None.
        clock: Seconds since the epoch.
        admin_password: Password of `admin` for the admin API. If None there is no such user, and only service
            accounts with roles of `realm-management` can use the API.
        keys: Its signing keys; new ones if None.

    Returns:
        The application; its `state.tokens` are the Tokens of the realm.
    """
    issuer = f"{base_url.rstrip('/')}/realms/{realm.name}"
    protocol_url = f"{issuer}/protocol/openid-connect"
    server = IssuerServer(Tokens(realm, issuer, keys or SigningKeys.create(), Sessions(), clock))
    login = Login(server, issuer, protocol_url)
    root, protocol = f"/realms/{realm.name}", f"/realms/{realm.name}/protocol/openid-connect"
    endpoints = _Endpoints(server, protocol_url, (local_url or base_url).rstrip("/"), protocol)
    routes = [
        Route(root, endpoints.about),
        Route(f"{root}/.well-known/openid-configuration", endpoints.discovery),
        Route(f"{root}/.well-known/oauth-authorization-server", endpoints.discovery),
        Route(f"/.well-known/oauth-authorization-server{root}", endpoints.discovery),
        Route(f"{protocol}/certs", endpoints.certs),
        Route(f"{protocol}/token", endpoints.token, methods=["POST"]),
        Route(f"{protocol}/token/introspect", endpoints.introspect, methods=["POST"]),
        Route(f"{protocol}/revoke", endpoints.revoke, methods=["POST"]),
        Route(f"{protocol}/userinfo", endpoints.userinfo, methods=["GET", "POST"]),
        Route(f"{protocol}/auth", login.authorize),
        Route(f"{root}/login-actions/authenticate", login.authenticate, methods=["POST"]),
        Route(f"{protocol}/logout", login.logout, methods=["GET", "POST"]),
        Route(f"{protocol}/logout/logout-confirm", login.confirm_logout, methods=["POST"]),
        *DeviceAuthorization(server, login, issuer).routes(root, protocol),
        *AdminApi(server.tokens, admin_password).routes(),
    ]

    async def not_found(request: Request, _: Exception) -> Response:
        known = request.url.path.startswith((f"{root}/", "/admin/"))
        return Refusal(404, "HTTP 404 Not Found" if known else "Realm does not exist").response()

    async def not_allowed(_: Request, error: Exception) -> Response:
        allow = getattr(error, "headers", None) or {}
        return JSONResponse({"error": "HTTP 405 Method Not Allowed"}, 405, allow)

    async def refused(_: Request, error: Refusal) -> Response:
        return error.response()

    handlers: dict[Any, Any] = {404: not_found, 405: not_allowed, Refusal: refused}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.tokens = server.tokens
    return app
