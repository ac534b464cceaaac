"""The part of Keycloak's admin API that rotates keys, ends sessions, and changes roles and users."""

from __future__ import annotations

import hmac
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatehouse_testbed.issuer._web import TooLarge, error_response, read_body, read_form
from gatehouse_testbed.issuer.keys import SigningKey
from gatehouse_testbed.issuer.realm import User
from gatehouse_testbed.issuer.sessions import Bounded
from gatehouse_testbed.issuer.tokens import Tokens

ADMIN_TOKEN_SECONDS = 60
MAX_USERS = 100
_KEY_PROVIDER = "org.keycloak.keys.KeyProvider"
_ALGORITHMS = {"ecdsa-generated": "ES256", "rsa-generated": "RS256"}
# Roles of Keycloak's client `realm-management`; a call needs one of those that it names.
_VIEW_REALM = ("view-realm", "manage-realm")
_MANAGE_REALM = ("manage-realm",)
_VIEW_USERS = ("view-users", "manage-users")
_MANAGE_USERS = ("manage-users",)

_Handler = Callable[[Request], Awaitable[Response]]


class AdminApi:
    """The admin calls of one realm.

    Args:
        tokens: Of the realm, which hang together with its keys, users and sessions.
        clock: Seconds since the epoch.
        password: Of the administrator `admin`; None for no administrator.
    """

    def __init__(self, tokens: Tokens, clock: Callable[[], float], password: str | None) -> None:
        self._realm = tokens.realm
        self._judge = tokens
        self._keys = tokens.keys
        self._sessions = tokens.sessions
        self._clock = clock
        self._password = password
        self._tokens: Bounded[float] = Bounded()

    def routes(self) -> list[Route]:
        """Returns what it answers."""
        at = f"/admin/realms/{self._realm.name}"
        user = f"{at}/users/{{user_id}}"
        mappings = f"{user}/role-mappings/realm"
        routes = [
            self._route(f"{at}/components", "GET", _VIEW_REALM, self._list_components),
            self._route(f"{at}/components", "POST", _MANAGE_REALM, self._add_component),
            self._route(f"{at}/components/{{component_id}}", "PUT", _MANAGE_REALM, self._change_component),
            self._route(f"{at}/components/{{component_id}}", "DELETE", _MANAGE_REALM, self._remove_component),
            self._route(f"{at}/sessions/{{sid}}", "DELETE", _MANAGE_USERS, self._end_session),
            self._route(f"{at}/roles/{{role}}", "GET", _VIEW_REALM, self._role),
            self._route(f"{at}/users", "GET", _VIEW_USERS, self._users),
            self._route(user, "GET", _VIEW_USERS, self._of_user(self._user)),
            self._route(user, "PUT", _MANAGE_USERS, self._of_user(self._change_user)),
            self._route(f"{user}/logout", "POST", _MANAGE_USERS, self._of_user(self._logout)),
            self._route(mappings, "GET", _VIEW_USERS, self._of_user(self._held)),
            self._route(f"{mappings}/available", "GET", _VIEW_USERS, self._of_user(self._available)),
            self._route(mappings, "POST", _MANAGE_USERS, self._of_user(self._map)),
            self._route(mappings, "DELETE", _MANAGE_USERS, self._of_user(self._map)),
        ]
        if self._password is not None:
            routes.append(
                Route("/realms/master/protocol/openid-connect/token", self._token, methods=["POST"])
            )
        return routes

    # -- who may

    async def _token(self, request: Request) -> Response:
        form = await read_form(request)
        if isinstance(form, Response):
            return form
        wanted = self._password or ""
        good = hmac.compare_digest(form.get("password", "").encode(), wanted.encode())
        if not good or form.get("client_id") != "admin-cli" or form.get("username") != "admin":
            return error_response(401, "invalid_grant", "Invalid user credentials")
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self._clock() + ADMIN_TOKEN_SECONDS
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": ADMIN_TOKEN_SECONDS}
        )

    def _route(self, path: str, method: str, rights: Iterable[str], handler: _Handler) -> Route:
        """Makes a route for the administrator, and for tokens that have one of `rights`."""
        wanted = frozenset(rights)

        async def guarded(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                return error_response(401, "HTTP 401 Unauthorized")
            if self._clock() >= self._tokens.get(token, 0.0):
                living = self._judge.living(token)
                if living is None or living[0]["typ"] != "Bearer":
                    return error_response(401, "HTTP 401 Unauthorized")
                access = living[0].get("resource_access", {}).get("realm-management", {})
                if wanted.isdisjoint(access.get("roles", ())):
                    return error_response(403, "HTTP 403 Forbidden")
            return await handler(request)

        return Route(path, guarded, methods=[method])

    # -- keys and sessions

    async def _add_component(self, request: Request) -> Response:
        try:
            algorithm, options = _component(await _json(request))
            key = self._keys.add(algorithm, **options)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, TooLarge):
            return error_response(400, "invalid_request", "not a key provider of this issuer")
        place = f"{request.url.path}/{key.component_id}"
        return Response(status_code=201, headers={"Location": place})

    async def _list_components(self, request: Request) -> Response:
        if request.query_params.get("type", _KEY_PROVIDER) != _KEY_PROVIDER:
            return JSONResponse([])
        return JSONResponse([_component_of(key) for key in self._keys.all()])

    async def _change_component(self, request: Request) -> Response:
        key = self._keys.find(request.path_params["component_id"])
        if key is None:
            return error_response(404, "Could not find component")
        try:
            _, options = _component(await _json(request))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, TooLarge):
            return error_response(400, "invalid_request", "not a key provider of this issuer")
        key.active, key.enabled = options["active"], options["enabled"]
        return Response(status_code=204)

    async def _remove_component(self, request: Request) -> Response:
        key = self._keys.find(request.path_params["component_id"])
        if key is None:
            return error_response(404, "Could not find component")
        self._keys.remove(key)
        return Response(status_code=204)

    async def _end_session(self, request: Request) -> Response:
        session = self._sessions.sessions.get(request.path_params["sid"])
        if session is None:
            return error_response(404, "Session not found")
        self._sessions.end(session)
        return Response(status_code=204)

    # -- users and their roles

    def _of_user(self, handler: Callable[[Request, User], Awaitable[Response]]) -> _Handler:
        """Makes a handler that knows the user whom the path names."""

        async def found(request: Request) -> Response:
            user = self._realm.users.get(request.path_params["user_id"])
            if user is None:
                return error_response(404, "User not found")
            return await handler(request, user)

        return found

    async def _users(self, request: Request) -> Response:
        asked = request.query_params
        wanted = {name: asked[name].lower() for name in ("username", "email") if name in asked}
        exact = asked.get("exact") == "true"

        def fits(user: User) -> bool:
            values = {"username": user.username.lower(), "email": user.email.lower()}
            return all(values[n] == v if exact else v in values[n] for n, v in wanted.items())

        people = [u for u in self._realm.users.values() if not u.service_account_of and fits(u)]
        return JSONResponse([_person(user) for user in people[:MAX_USERS]])

    async def _user(self, _: Request, user: User) -> Response:
        return JSONResponse(_person(user))

    async def _change_user(self, request: Request, user: User) -> Response:
        try:
            asked = await _json(request)
        except (ValueError, TypeError, TooLarge):
            return error_response(400, "unknown_error", "Cannot parse the JSON")
        # Of what Keycloak can change about a user, this issuer knows the switch.
        if isinstance(asked.get("enabled"), bool):
            user.enabled = asked["enabled"]
        return Response(status_code=204)

    async def _logout(self, _: Request, user: User) -> Response:
        self._sessions.end_of_user(user.user_id)
        return Response(status_code=204)

    async def _role(self, request: Request) -> Response:
        name = request.path_params["role"]
        if name not in self._realm.composites:
            return error_response(404, "Could not find role")
        return JSONResponse(self._representation(name))

    async def _held(self, _: Request, user: User) -> Response:
        return JSONResponse([self._representation(name) for name in sorted(user.realm_roles)])

    async def _available(self, _: Request, user: User) -> Response:
        names = sorted(self._realm.composites.keys() - user.realm_roles)
        return JSONResponse([self._representation(name) for name in names])

    async def _map(self, request: Request, user: User) -> Response:
        try:
            asked = [(role["id"], role["name"]) for role in json.loads(await read_body(request))]
        except (ValueError, TypeError, TooLarge):
            return error_response(400, "unknown_error", "Cannot parse the JSON")
        except KeyError:
            return error_response(404, "Role not found")
        for role_id, name in asked:
            if name not in self._realm.composites or role_id != self._role_id(name):
                return error_response(404, "Role not found")
        names = {name for _, name in asked}
        if request.method == "POST":
            user.realm_roles |= names
        else:
            user.realm_roles -= names
        return Response(status_code=204)

    def _role_id(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"gatehouse:{self._realm.name}/roles/{name}"))

    def _representation(self, name: str) -> dict[str, Any]:
        return {
            "id": self._role_id(name),
            "name": name,
            "composite": bool(self._realm.composites.get(name)),
            "clientRole": False,
            "containerId": self._realm.name,
        }


async def _json(request: Request) -> dict[str, Any]:
    found = json.loads(await read_body(request))
    if not isinstance(found, dict):
        raise TypeError
    return found


def _component_of(key: SigningKey) -> dict[str, Any]:
    return {
        "id": key.component_id,
        "providerId": next(name for name, algorithm in _ALGORITHMS.items() if algorithm == key.algorithm),
        "providerType": _KEY_PROVIDER,
        "config": {
            "priority": [str(key.priority)],
            "enabled": [str(key.enabled).lower()],
            "active": [str(key.active).lower()],
        },
    }


def _component(raw: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    config = raw["config"]
    return _ALGORITHMS[raw["providerId"]], {
        "priority": int(config.get("priority", ["0"])[0]),
        "active": config.get("active", ["true"])[0] == "true",
        "enabled": config.get("enabled", ["true"])[0] == "true",
    }


def _person(user: User) -> dict[str, Any]:
    return {
        "id": user.user_id,
        "username": user.username,
        "firstName": user.first_name,
        "lastName": user.last_name,
        "email": user.email,
        "emailVerified": user.email_verified,
        "enabled": user.enabled,
    }
