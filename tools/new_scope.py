"""Add a scope to the realm: `new_scope.py NAME ROLE`, or `make new-scope NAME=close:bills ROLE=editor`.

The scope is granted to users with the role, who log in at the console. A role that the realm does not have is
added, and granted to alice.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REALM_FILE = ROOT / "keycloak/gatehouse-realm.json"
CONSOLE, USER = "gatehouse-console", "alice"
_SCOPE = re.compile(r"[a-z]+:[a-z][a-z0-9_.-]*")
_ROLE = re.compile(r"[a-z][a-z0-9_.-]*")


def check(realm: dict[str, Any], scope: str, role: str) -> str:
    """Return what is wrong with the arguments, "" if nothing is."""
    if not _SCOPE.fullmatch(scope):
        return f"NAME={scope}: use a verb and a noun, such as close:bills"
    if not _ROLE.fullmatch(role):
        return f"ROLE={role}: name the role whose users get the scope, such as editor"
    if any(found["name"] == scope for found in realm["clientScopes"]):
        return f"NAME={scope}: {REALM_FILE.relative_to(ROOT)} has this scope; choose another name"
    return ""


def add_scope(realm: dict[str, Any], scope: str, role: str) -> None:
    """Add a scope that users with the role get."""
    verb, noun = scope.split(":")
    description = f"{verb.capitalize()} {noun}"
    realm["clientScopes"].append({"name": scope, "description": description, "protocol": "openid-connect"})
    realm["scopeMappings"].append({"clientScope": scope, "roles": [role]})
    (console,) = (client for client in realm["clients"] if client["clientId"] == CONSOLE)
    console["optionalClientScopes"].append(scope)
    roles = realm["roles"]["realm"]
    if all(found["name"] != role for found in roles):
        roles.append({"name": role, "description": f"May {verb} {noun}"})
        (user,) = (found for found in realm["users"] if found["username"] == USER)
        user["realmRoles"].append(role)
    # Tokens of a client contain only the roles that are mapped to it.
    (mapping,) = (found for found in realm["scopeMappings"] if found.get("client") == CONSOLE)
    if role not in mapping["roles"]:
        mapping["roles"].append(role)


def main() -> int:
    """Add the scope that the command line names."""
    parser = argparse.ArgumentParser(prog="make new-scope", description="Add a scope to the realm.")
    parser.add_argument("scope", help="such as close:bills")
    parser.add_argument("role", help="such as editor")
    arguments = parser.parse_args()
    realm = json.loads(REALM_FILE.read_text())
    problem = check(realm, arguments.scope, arguments.role)
    if problem:
        print(f"new-scope: {problem}", file=sys.stderr)
        return 2
    add_scope(realm, arguments.scope, arguments.role)
    REALM_FILE.write_text(json.dumps(realm, indent=2, ensure_ascii=False) + "\n")
    print(f"changed  {REALM_FILE.relative_to(ROOT)}")
    print(f'next: let a rule require it, scopes: ["{arguments.scope}"], and run `make generate`')
    return 0


if __name__ == "__main__":
    sys.exit(main())
