"""What the realm file gives to its users and clients, read without the code of the development issuer."""

from __future__ import annotations

import json
from typing import Any

from tests.support.issuer import REALM_FILE
from tests.support.scopes import EVERY_SCOPE

CONSOLE = "gatehouse-console"
REALM: dict[str, Any] = json.loads(REALM_FILE.read_text())


def token_roles(username: str, client: str = CONSOLE, realm: dict[str, Any] = REALM) -> set[str]:
    """Return the roles in a token: those that the user has and the client may have."""
    return _roles(realm, username) & _mapped(realm, "client", client)


def token_scopes(username: str, client: str = CONSOLE, realm: dict[str, Any] = REALM) -> set[str]:
    """Return the scopes of access rules in a token for which the client requests all scopes."""
    (found,) = (each for each in realm["clients"] if each["clientId"] == client)
    wanted = set(found["optionalClientScopes"]) & set(EVERY_SCOPE.split())
    roles = _roles(realm, username)
    return {scope for scope in wanted if roles & _mapped(realm, "clientScope", scope)}


def _roles(realm: dict[str, Any], username: str) -> set[str]:
    (user,) = (each for each in realm["users"] if each["username"] == username)
    return set(user.get("realmRoles", ()))


def _mapped(realm: dict[str, Any], kind: str, name: str) -> set[str]:
    found = (mapping for mapping in realm["scopeMappings"] if mapping.get(kind) == name)
    return {role for mapping in found for role in mapping["roles"]}
