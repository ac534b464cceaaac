"""The part of Keycloak's admin API that rotates keys and ends sessions."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatehouse.issuer._web import TooLarge, error_response, read_body, read_form
from gatehouse.issuer.keys import SigningKeys
from gatehouse.issuer.sessions import Bounded, Sessions

ADMIN_TOKEN_SECONDS = 60
_ALGORITHMS = {"ecdsa-generated": "ES256", "rsa-generated": "RS256"}


class AdminApi:
    """The admin calls of one realm.

    Args:
        realm_name: The realm.
        keys: Its signing keys.
        sessions: What is remembered of it.
        clock: Seconds since the epoch.
        password: Of the administrator `admin`.
    """

    def __init__(
        self,
        realm_name: str,
        keys: SigningKeys,
        sessions: Sessions,
        clock: Callable[[], float],
        password: str,
    ) -> None:
        self._at = f"/admin/realms/{realm_name}"
        self._keys = keys
        self._sessions = sessions
        self._clock = clock
        self._password = password
        self._tokens: Bounded[float] = Bounded()

    def routes(self) -> list[Route]:
        """Returns what it answers."""
        at = self._at
        return [
            Route("/realms/master/protocol/openid-connect/token", self._token, methods=["POST"]),
            Route(f"{at}/components", self._add_component, methods=["POST"]),
            Route(f"{at}/components/{{component_id}}", self._component, methods=["PUT", "DELETE"]),
            Route(f"{at}/sessions/{{sid}}", self._end_session, methods=["DELETE"]),
            Route(f"{at}/users/{{user_id}}/logout", self._logout_user, methods=["POST"]),
        ]

    async def _token(self, request: Request) -> Response:
        form = await read_form(request)
        if isinstance(form, Response):
            return form
        good = hmac.compare_digest(form.get("password", "").encode(), self._password.encode())
        if not good or form.get("client_id") != "admin-cli" or form.get("username") != "admin":
            return error_response(401, "invalid_grant", "Invalid user credentials")
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self._clock() + ADMIN_TOKEN_SECONDS
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": ADMIN_TOKEN_SECONDS}
        )

    def _is_admin(self, request: Request) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self._clock() < self._tokens.get(token, 0.0)

    async def _add_component(self, request: Request) -> Response:
        if not self._is_admin(request):
            return error_response(401, "HTTP 401 Unauthorized")
        try:
            algorithm, options = _component(await _json(request))
            key = self._keys.add(algorithm, **options)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, TooLarge):
            return error_response(400, "invalid_request", "not a key provider of this issuer")
        place = f"{request.url.path}/{key.component_id}"
        return Response(status_code=201, headers={"Location": place})

    async def _component(self, request: Request) -> Response:
        if not self._is_admin(request):
            return error_response(401, "HTTP 401 Unauthorized")
        key = self._keys.find(request.path_params["component_id"])
        if key is None:
            return error_response(404, "Could not find component")
        if request.method == "DELETE":
            self._keys.remove(key)
            return Response(status_code=204)
        try:
            _, options = _component(await _json(request))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, TooLarge):
            return error_response(400, "invalid_request", "not a key provider of this issuer")
        key.active, key.enabled = options["active"], options["enabled"]
        return Response(status_code=204)

    async def _end_session(self, request: Request) -> Response:
        if not self._is_admin(request):
            return error_response(401, "HTTP 401 Unauthorized")
        session = self._sessions.sessions.get(request.path_params["sid"])
        if session is None:
            return error_response(404, "Session not found")
        self._sessions.end(session)
        return Response(status_code=204)

    async def _logout_user(self, request: Request) -> Response:
        if not self._is_admin(request):
            return error_response(401, "HTTP 401 Unauthorized")
        self._sessions.end_of_user(request.path_params["user_id"])
        return Response(status_code=204)


async def _json(request: Request) -> dict[str, Any]:
    found = json.loads(await read_body(request))
    if not isinstance(found, dict):
        raise TypeError
    return found


def _component(raw: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    config = raw["config"]
    return _ALGORITHMS[raw["providerId"]], {
        "priority": int(config.get("priority", ["0"])[0]),
        "active": config.get("active", ["true"])[0] == "true",
        "enabled": config.get("enabled", ["true"])[0] == "true",
    }
