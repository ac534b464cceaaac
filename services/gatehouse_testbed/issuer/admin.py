"""The part of Keycloak's admin API for keys, sessions, users and their realm roles."""

from __future__ import annotations

import hmac
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatehouse_testbed.issuer.forms import Refusal, read_form, read_json
from gatehouse_testbed.issuer.keys import SigningKey
from gatehouse_testbed.issuer.realm import User
from gatehouse_testbed.issuer.sessions import Bounded
from gatehouse_testbed.issuer.tokens import Tokens

ADMIN_TOKEN_SECONDS = 60
MAX_USERS = 100
_KEY_PROVIDER = "org.keycloak.keys.KeyProvider"
_ALGORITHMS = {"ecdsa-generated": "ES256", "rsa-generated": "RS256"}
# Roles of Keycloak's client `realm-management`; a call needs one of them.
_VIEW_REALM = frozenset({"view-realm", "manage-realm"})
_MANAGE_REALM = frozenset({"manage-realm"})
_VIEW_USERS = frozenset({"view-users", "manage-users"})
_MANAGE_USERS = frozenset({"manage-users"})


class AdminApi:
    """The admin API of one realm.

    Args:
        tokens: Tokens of the realm.
        password: Password of the administrator `admin`; None for no administrator.
    """

    def __init__(self, tokens: Tokens, password: str | None) -> None:
        self._tokens = tokens
        self._realm = tokens.realm
        self._keys = tokens.keys
        self._sessions = tokens.sessions
        self._clock = tokens.clock
        self._password = password
        self._admin_tokens: Bounded[float] = Bounded()

    def routes(self) -> list[Route]:
        """Return its routes."""
        realm = f"/admin/realms/{self._realm.name}"
        component, user = f"{realm}/components/{{component_id}}", f"{realm}/users/{{user_id}}"
        mappings = f"{user}/role-mappings/realm"
        routes = [
            self._route(f"{realm}/components", "GET", _VIEW_REALM, self._list_components),
            self._route(f"{realm}/components", "POST", _MANAGE_REALM, self._add_component),
            self._route(component, "PUT", _MANAGE_REALM, self._change_component),
            self._route(component, "DELETE", _MANAGE_REALM, self._remove_component),
            self._route(f"{realm}/sessions/{{sid}}", "DELETE", _MANAGE_USERS, self._end_session),
            self._route(f"{realm}/roles/{{role}}", "GET", _VIEW_REALM, self._get_role),
            self._route(f"{realm}/users", "GET", _VIEW_USERS, self._list_users),
            self._route(user, "GET", _VIEW_USERS, self._get_user),
            self._route(user, "PUT", _MANAGE_USERS, self._change_user),
            self._route(f"{user}/logout", "POST", _MANAGE_USERS, self._logout),
            self._route(mappings, "GET", _VIEW_USERS, self._assigned_roles),
            self._route(f"{mappings}/available", "GET", _VIEW_USERS, self._available_roles),
            self._route(mappings, "POST", _MANAGE_USERS, self._change_roles),
            self._route(mappings, "DELETE", _MANAGE_USERS, self._change_roles),
        ]
        if self._password is not None:
            path = "/realms/master/protocol/openid-connect/token"
            routes.append(Route(path, self._token, methods=["POST"]))
        return routes

    # Authorization

    async def _token(self, request: Request) -> Response:
        form = await read_form(request)
        password = self._password or ""
        correct = hmac.compare_digest(form.get("password", "").encode(), password.encode())
        if not correct or form.get("client_id") != "admin-cli" or form.get("username") != "admin":
            raise Refusal(401, "invalid_grant", "Invalid user credentials")
        token = secrets.token_urlsafe(32)
        self._admin_tokens[token] = self._clock() + ADMIN_TOKEN_SECONDS
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": ADMIN_TOKEN_SECONDS}
        )

    def _route(
        self, path: str, method: str, roles: frozenset[str], handler: Callable[[Request], Awaitable[Response]]
    ) -> Route:
        """Return a route for the administrator and for service accounts with one of `roles`."""

        async def authorize(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                raise Refusal(401, "HTTP 401 Unauthorized")
            if self._clock() >= self._admin_tokens.get(token, 0.0):
                found = self._tokens.active(token)
                if found is None or found.claims["typ"] != "Bearer":
                    raise Refusal(401, "HTTP 401 Unauthorized")
                access = found.claims.get("resource_access", {}).get("realm-management", {})
                if roles.isdisjoint(access.get("roles", ())):
                    raise Refusal(403, "HTTP 403 Forbidden")
            return await handler(request)

        return Route(path, authorize, methods=[method])

    # Keys and sessions

    async def _list_components(self, request: Request) -> Response:
        if request.query_params.get("type", _KEY_PROVIDER) != _KEY_PROVIDER:
            return JSONResponse([])
        return JSONResponse([_component(key) for key in self._keys.all()])

    async def _add_component(self, request: Request) -> Response:
        algorithm, options = _parse_component(await read_json(request))
        try:
            key = self._keys.add(algorithm, **options)
        except ValueError as error:
            raise Refusal(400, "invalid_request", str(error)) from None
        location = f"{request.url.path}/{key.component_id}"
        return Response(status_code=201, headers={"Location": location})

    async def _change_component(self, request: Request) -> Response:
        key = self._key(request)
        _, options = _parse_component(await read_json(request))
        key.active, key.enabled = options["active"], options["enabled"]
        return Response(status_code=204)

    async def _remove_component(self, request: Request) -> Response:
        self._keys.remove(self._key(request))
        return Response(status_code=204)

    def _key(self, request: Request) -> SigningKey:
        key = self._keys.find(request.path_params["component_id"])
        if key is None:
            raise Refusal(404, "Could not find component")
        return key

    async def _end_session(self, request: Request) -> Response:
        session = self._sessions.sessions.get(request.path_params["sid"])
        if session is None:
            raise Refusal(404, "Session not found")
        self._sessions.end(session)
        return Response(status_code=204)

    # Users and their roles

    async def _list_users(self, request: Request) -> Response:
        query = request.query_params
        wanted = {name: query[name].lower() for name in ("username", "email") if name in query}
        exact = query.get("exact") == "true"

        def matches(user: User) -> bool:
            values = {"username": user.username.lower(), "email": user.email.lower()}
            return all(values[n] == v if exact else v in values[n] for n, v in wanted.items())

        users = [u for u in self._realm.users.values() if not u.service_account_client_id and matches(u)]
        return JSONResponse([_representation(user) for user in users[:MAX_USERS]])

    async def _get_user(self, request: Request) -> Response:
        return JSONResponse(_representation(self._user(request)))

    async def _change_user(self, request: Request) -> Response:
        user, body = self._user(request), await read_json(request)
        if not isinstance(body, dict):
            raise Refusal(400, "unknown_error", "Cannot parse the JSON")
        # Of a user, only this can be changed.
        if isinstance(body.get("enabled"), bool):
            user.enabled = body["enabled"]
        return Response(status_code=204)

    async def _logout(self, request: Request) -> Response:
        self._sessions.end_of_user(self._user(request).user_id)
        return Response(status_code=204)

    def _user(self, request: Request) -> User:
        user = self._realm.users.get(request.path_params["user_id"])
        if user is None:
            raise Refusal(404, "User not found")
        return user

    async def _get_role(self, request: Request) -> Response:
        name = request.path_params["role"]
        if name not in self._realm.composites:
            raise Refusal(404, "Could not find role")
        return JSONResponse(self._role(name))

    async def _assigned_roles(self, request: Request) -> Response:
        return JSONResponse([self._role(name) for name in sorted(self._user(request).realm_roles)])

    async def _available_roles(self, request: Request) -> Response:
        names = self._realm.composites.keys() - self._user(request).realm_roles
        return JSONResponse([self._role(name) for name in sorted(names)])

    async def _change_roles(self, request: Request) -> Response:
        user, body = self._user(request), await read_json(request)
        try:
            ids = {role["name"]: role["id"] for role in body}
        except KeyError:
            raise Refusal(404, "Role not found") from None
        except TypeError:
            raise Refusal(400, "unknown_error", "Cannot parse the JSON") from None
        names = ids.keys()
        if names - self._realm.composites.keys() or any(
            ids[name] != self._role(name)["id"] for name in names
        ):
            raise Refusal(404, "Role not found")
        if request.method == "POST":
            user.realm_roles |= names
        else:
            user.realm_roles -= names
        return Response(status_code=204)

    def _role(self, name: str) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"gatehouse:{self._realm.name}/roles/{name}")),
            "name": name,
            "composite": bool(self._realm.composites.get(name)),
            "clientRole": False,
            "containerId": self._realm.name,
        }


def _component(key: SigningKey) -> dict[str, Any]:
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


def _parse_component(raw: Any) -> tuple[str, dict[str, Any]]:
    try:
        config = raw["config"]
        return _ALGORITHMS[raw["providerId"]], {
            "priority": int(config.get("priority", ["0"])[0]),
            "active": config.get("active", ["true"])[0] == "true",
            "enabled": config.get("enabled", ["true"])[0] == "true",
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise Refusal(400, "invalid_request", "not a key provider of this issuer") from None


def _representation(user: User) -> dict[str, Any]:
    return {
        "id": user.user_id,
        "username": user.username,
        "firstName": user.first_name,
        "lastName": user.last_name,
        "email": user.email,
        "emailVerified": user.email_verified,
        "enabled": user.enabled,
    }
