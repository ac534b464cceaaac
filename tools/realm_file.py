"""Compare realms of Keycloak in a normal form, and merge changes into a realm file that people edit."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

Json = Any

# A realm without any settings. What Keycloak's export adds to it are defaults, not settings of a realm file.
# The members named `template` show the defaults of a role, client, scope, mapper, key and user.
DEFAULTS = "realm-of-defaults"
TEMPLATE = "template"
_MAPPER = {"name": TEMPLATE, "protocol": "openid-connect", "protocolMapper": "oidc-sub-mapper", "config": {}}
DEFAULTS_REALM: Json = {
    "realm": DEFAULTS,
    "components": {
        "org.keycloak.keys.KeyProvider": [{"name": TEMPLATE, "providerId": "ecdsa-generated", "config": {}}]
    },
    "roles": {"realm": [{"name": TEMPLATE}], "client": {TEMPLATE: [{"name": TEMPLATE}]}},
    "clientScopes": [{"name": TEMPLATE, "protocol": "openid-connect", "protocolMappers": [_MAPPER]}],
    "clients": [{"clientId": TEMPLATE, "protocol": "openid-connect", "protocolMappers": [_MAPPER]}],
    "users": [{"username": TEMPLATE}],
}

# Members that identify an object in a list; the first one that is present counts.
_NAMES = ("username", "clientId", "alias", "clientScope", "client", "name")
# Members that differ after each import, and secrets that an export has in another format.
_VOLATILE = frozenset(
    {
        "access",
        "certificate",
        "composite",
        "clientRole",
        "containerId",
        "createdTimestamp",
        "credentials",
        "ecdsaPrivateKey",
        "ecdsaPublicKey",
        "id",
        "kid",
        "privateKey",
    }
)
# Members that an import needs, even if they are the same as in the template.
_REQUIRED = frozenset({"realm", "protocol", "protocolMapper", "providerId"})
_MASKED_SECRET = "**********"  # noqa: S105 - what exports have in place of a secret
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:([^}]*)\}")
_MISSING: Json = object()


def normalize(realm: Json, defaults: Json) -> Json:
    """Return the normal form of a realm.

    Lists of named objects become objects by name, other lists are sorted, and `${VARIABLE:default}` becomes
    `default`. Volatile and empty members are removed, and those with the default value.

    Args:
        realm: A realm file or an export.
        defaults: Export of DEFAULTS_REALM by the same version of Keycloak.
    """
    base = json.loads(json.dumps(defaults).replace(DEFAULTS, realm["realm"]))
    return _without_defaults(_by_name(realm), _by_name(base), is_new=True)


def diff(before: Json, after: Json, before_name: str, after_name: str) -> str:
    """Return the unified diff of two normal forms, "" if they are equal."""
    left, right = (
        json.dumps(form, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
        for form in (before, after)
    )
    return "\n".join(difflib.unified_diff(left, right, before_name, after_name, lineterm=""))


def complete(export: Json, file: Json) -> Json:
    """Return a partial export with what it leaves out, such as users and secrets, taken from the file."""
    secrets = {client["clientId"]: client.get("secret") for client in file.get("clients", ())}
    clients = [
        client | {"secret": secrets.get(client["clientId"])}
        if client.get("secret") == _MASKED_SECRET
        else client
        for client in export.get("clients", ())
    ]
    return file | export | ({"clients": clients} if clients else {})


def merge(file: Json, before: Json, after: Json) -> Json:
    """Return the content of a realm file with changes; everything else keeps its order and spelling.

    Args:
        file: The realm file, or a part of it.
        before: Its normal form.
        after: Its normal form with the changes.
    """
    if before == after:
        return file
    if isinstance(file, list) and isinstance(after, dict):
        return _merge_named(file, before, after)
    if isinstance(file, list) and isinstance(after, list):
        kept = [member for member in file if _by_name(member) in after]
        kept_forms = [_by_name(member) for member in kept]
        return kept + [member for member in after if member not in kept_forms]
    if not (isinstance(file, dict) and isinstance(after, dict)):
        return _to_lists(after)
    before = before if isinstance(before, dict) else {}
    merged = {}
    for key, value in file.items():
        if key in after:
            merged[key] = merge(value, before.get(key, _MISSING), after[key])
        elif key not in before:  # not part of the normal form
            merged[key] = value
    return merged | {key: _to_lists(value) for key, value in after.items() if key not in file}


def name_of(member: Json) -> str | None:
    """Return the name that identifies `member` in its list, or None."""
    key = next((key for key in _NAMES if isinstance(member, dict) and key in member), None)
    if key is None:
        return None
    name = f"{key} {member[key]}" if key in {"client", "clientScope"} else str(member[key])
    return f"{name} ({member['subType']})" if "subType" in member else name


def _by_name(value: Json) -> Json:
    """Convert lists of named objects to objects by name, and remove volatile members."""
    if isinstance(value, dict):
        # The id of a person is `sub` in tokens; Keycloak creates that of a service account.
        kept = {"id"} if "username" in value and not _is_service_account(value) else set()
        return {k: _by_name(v) for k, v in value.items() if k not in _VOLATILE or k in kept}
    if isinstance(value, list):
        if not any(isinstance(member, dict | list) for member in value):
            return sorted(value, key=str)
        names = [name_of(member) for member in value]
        members = [_by_name(member) for member in value]
        return members if None in names else dict(zip(names, members, strict=True))
    return _VARIABLE.sub(r"\1", value) if isinstance(value, str) else value


def _to_lists(value: Json) -> Json:
    """Convert objects by name back to lists."""
    if not isinstance(value, dict):
        return value
    if value and all(_is_named(member, key) for key, member in value.items()):
        return [_to_lists(member) for member in value.values()]
    return {key: _to_lists(member) for key, member in value.items()}


def _without_defaults(value: Json, base: Json, *, is_new: bool = False) -> Json:
    """Return the members of `value` that differ from `base`, or _MISSING if there are none.

    A new named object is kept even if it has nothing but defaults.
    """
    if value == [] and isinstance(base, dict):
        value = {}
    if not isinstance(value, dict):
        is_empty = value in ("", None) or value == []
        is_default = value == base or (is_empty and base in (_MISSING, None, "", []))
        return _MISSING if is_default else value
    known = base if isinstance(base, dict) else {}
    found = {}
    for key, member in value.items():
        named = _is_named(member, key)
        default = known.get(key, known.get(TEMPLATE, _MISSING))
        if not (is_new and key in _REQUIRED):
            kept = _without_defaults(member, default, is_new=named and key not in known)
        else:
            kept = member
        if kept is not _MISSING:
            found[key] = {**_identity(member), **kept} if named else kept
    return found if found or is_new else _MISSING


def _identity(member: Mapping[str, Json]) -> dict[str, Json]:
    first = next(key for key in _NAMES if key in member)
    return {key: member[key] for key in (first, "subType") if key in member}


def _is_named(member: Json, key: str) -> bool:
    return isinstance(member, dict) and name_of(member) == key


def _is_service_account(user: Mapping[str, Json]) -> bool:
    return "serviceAccountClientId" in user or str(user["username"]).startswith("service-account-")


def _merge_named(file: list[Json], before: Json, after: Json) -> Json:
    before = before if isinstance(before, dict) else {}
    names = [name_of(member) for member in file]
    kept = [
        merge(member, before.get(name), after[name])
        for member, name in zip(file, names, strict=True)
        if name in after
    ]
    return kept + [_to_lists(member) for name, member in after.items() if name not in names]
