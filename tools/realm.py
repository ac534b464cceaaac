"""Keeps keycloak/gatehouse-realm.json, which people write, and what Keycloak makes of it the same.

realm.py check          imports the file, exports the realm, prints the difference; 0 when there is none
realm.py edit           runs Keycloak for changes in its admin console, then writes them into the file
realm.py adopt EXPORT   writes what an export of the realm has changed into the file
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# The folder of this file is where Python looks first, whether it is run or imported.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.keycloak import (
    ADMIN,
    ADMIN_PASSWORD,
    Distribution,
    KeycloakError,
    database,
    distribution,
    run_command,
    serve,
    warnings_of,
    workspace,
)

REALM_FILE = Path(__file__).resolve().parent.parent / "keycloak" / "gatehouse-realm.json"
BASELINE = "realm-of-defaults"
TEMPLATE = "template"
Json = Any

# What is told apart by its name rather than by its place; the first that is there.
_NAMES = ("username", "clientId", "alias", "clientScope", "client", "name")
# Made anew by each import, or a secret that an export has in another form.
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
# What an import cannot do without, so that it is no default even where the template has the same.
_REQUIRED = frozenset({"realm", "protocol", "protocolMapper", "providerId"})
_MASKED = "**********"
_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:([^}]*)\}")
_NOTHING: Json = object()

_MAPPER = {"name": TEMPLATE, "protocol": "openid-connect", "protocolMapper": "oidc-sub-mapper", "config": {}}
# A realm of defaults: what Keycloak adds to this one is not the file's doing. The members named `template`
# show what it adds to any role, client, scope, mapper, key and user.
_BASELINE = {
    "realm": BASELINE,
    "components": {
        "org.keycloak.keys.KeyProvider": [{"name": TEMPLATE, "providerId": "ecdsa-generated", "config": {}}]
    },
    "roles": {"realm": [{"name": TEMPLATE}], "client": {TEMPLATE: [{"name": TEMPLATE}]}},
    "clientScopes": [{"name": TEMPLATE, "protocol": "openid-connect", "protocolMappers": [_MAPPER]}],
    "clients": [{"clientId": TEMPLATE, "protocol": "openid-connect", "protocolMappers": [_MAPPER]}],
    "users": [{"username": TEMPLATE}],
}


# -- the normal form


def normal(realm: Json, baseline: Json) -> Json:
    """Returns a realm in the form that is compared.

    Lists of named things become objects, other lists are sorted, and what is volatile, empty or as in
    `baseline` is left out.

    Args:
        realm: A realm, written by a person or exported.
        baseline: An export of the realm of defaults, of the same Keycloak.
    """
    base = json.loads(json.dumps(baseline).replace(BASELINE, realm["realm"]))
    return _beyond(_shaped(realm), _shaped(base), named=True)


def _shaped(value: Json) -> Json:
    if isinstance(value, dict):
        # A person's id is `sub` in tokens; a service account's is made anew.
        kept = {"id"} if "username" in value and not _is_service_account(value) else set()
        return {k: _shaped(v) for k, v in value.items() if k not in _VOLATILE or k in kept}
    if isinstance(value, list):
        if any(isinstance(v, list) for v in value):
            return [_shaped(v) for v in value]
        if not any(isinstance(v, dict) for v in value):
            return sorted(value, key=str)
        named = {name_of(v): _shaped(v) for v in value}
        return [_shaped(v) for v in value] if None in named else named
    return _VARIABLE.sub(r"\1", value) if isinstance(value, str) else value


def _is_service_account(user: Mapping[str, Json]) -> bool:
    return "serviceAccountClientId" in user or str(user["username"]).startswith("service-account-")


def name_of(member: Json) -> str | None:
    """Returns what tells a member of a list from its neighbours, or None."""
    key = next((k for k in _NAMES if isinstance(member, dict) and k in member), None)
    if key is None:
        return None
    name = f"{key} {member[key]}" if key in {"client", "clientScope"} else str(member[key])
    return f"{name} ({member['subType']})" if "subType" in member else name


def _beyond(value: Json, base: Json, *, named: bool = False) -> Json:
    """Returns what `value` says beyond `base`; a named thing stays even if it says no more than its name."""
    if value == [] and isinstance(base, dict):
        value = {}
    if not isinstance(value, dict):
        empty = value in ("", None) or value == []
        return _NOTHING if value == base or (empty and base in (_NOTHING, None, "", [])) else value
    known = base if isinstance(base, dict) else {}
    found = {}
    for key, member in value.items():
        like = known.get(key, known.get(TEMPLATE, _NOTHING))
        is_member = _is_named(member, key)
        if named and key in _REQUIRED:
            kept = member
        else:
            kept = _beyond(member, like, named=is_member and key not in known)
        if kept is not _NOTHING:
            found[key] = {**_identity(member), **kept} if is_member else kept
    return found if found or named else _NOTHING


def _identity(member: Mapping[str, Json]) -> dict[str, Json]:
    first = next(k for k in _NAMES if k in member)
    return {k: member[k] for k in (first, "subType") if k in member}


def _is_named(member: Json, key: str) -> bool:
    return isinstance(member, dict) and name_of(member) == key


# -- back into the file


def adopted(written: Json, before: Json, after: Json) -> Json:
    """Returns the file with what has changed, in the order and the words of whoever wrote it.

    Args:
        written: The file as it is written.
        before: Its normal form.
        after: The normal form of the realm as it is now.
    """
    if before == after:
        return written
    if isinstance(written, list) and isinstance(after, dict):
        return _adopted_members(written, before, after)
    if isinstance(written, list) and isinstance(after, list):
        kept = [v for v in written if _shaped(v) in after]
        return kept + [v for v in after if v not in [_shaped(k) for k in kept]]
    if not (isinstance(written, dict) and isinstance(after, dict)):
        return _unshaped(after)
    before = before if isinstance(before, dict) else {}
    result = {}
    for key, value in written.items():
        if key not in before and key not in after:
            result[key] = value
        elif key in after:
            result[key] = adopted(value, before.get(key, _NOTHING), after[key])
    return result | {k: _unshaped(v) for k, v in after.items() if k not in written}


def _adopted_members(written: list[Json], before: Json, after: Json) -> list[Json]:
    before = before if isinstance(before, dict) else {}
    names = [name_of(v) for v in written]
    kept = [
        adopted(v, before.get(name), after[name])
        for v, name in zip(written, names, strict=True)
        if name in after
    ]
    return kept + [_unshaped(v) for name, v in after.items() if name not in names]


def _unshaped(value: Json) -> Json:
    """Makes lists of named things again."""
    if not isinstance(value, dict):
        return value
    if value and all(_is_named(v, k) for k, v in value.items()):
        return [_unshaped(v) for v in value.values()]
    return {k: _unshaped(v) for k, v in value.items()}


def completed(export: Json, file: Json) -> Json:
    """Fills in what a partial export leaves out: whole parts, such as users, and masked secrets."""
    secrets = {c["clientId"]: c.get("secret") for c in file.get("clients", ())}
    clients = [
        {**c, "secret": secrets.get(c["clientId"])} if c.get("secret") == _MASKED else c
        for c in export.get("clients", ())
    ]
    return {**file, **export, **({"clients": clients} if clients else {})}


def difference(before: Json, after: Json, before_name: str, after_name: str) -> str:
    """Returns the difference of two normal forms as a unified diff; "" when there is none."""
    left, right = (
        json.dumps(v, indent=2, sort_keys=True, ensure_ascii=False).splitlines() for v in (before, after)
    )
    return "\n".join(difflib.unified_diff(left, right, before_name, after_name, lineterm=""))


# -- Keycloak


def exported(found: Distribution, file: Path, use: Callable[[Path, list[Path]], None]) -> tuple[Json, Json]:
    """Has Keycloak import a realm file and the realm of defaults, and returns both as it exports them.

    Args:
        found: The Keycloak.
        file: The realm file.
        use: Imports the files in a Keycloak home; it may do more.

    Raises:
        KeycloakError: Keycloak does not run, or warns of the file.
    """
    with workspace(found) as home:
        name = _read(file)["realm"]
        folder = home / "realms"
        folder.mkdir()
        shutil.copy2(file, folder / f"{name}-realm.json")
        (folder / f"{BASELINE}-realm.json").write_text(json.dumps(_BASELINE), encoding="utf-8")
        use(home, sorted(folder.iterdir()))
        _step("Keycloak exports")
        with tempfile.TemporaryDirectory() as out:
            run_command(
                found, home, "export", "--optimized", "--users=realm_file", f"--dir={out}", database(home)
            )
            files = [Path(out) / f"{realm}-realm.json" for realm in (name, BASELINE)]
            return _read(files[0]), _read(files[1])


def check(found: Distribution, file: Path) -> int:
    """Compares the file with what Keycloak makes of it."""

    def use(home: Path, files: list[Path]) -> None:
        _step("Keycloak imports")
        log = run_command(found, home, "import", "--optimized", f"--dir={files[0].parent}", database(home))
        if warnings_of(log):
            raise KeycloakError(f"Keycloak warns of {file.name}: {warnings_of(log)[0]}")

    export, baseline = exported(found, file, use)
    written = _read(file)
    diff = difference(
        normal(written, baseline), normal(export, baseline), str(file.name), "Keycloak's export"
    )
    if diff:
        print(diff)
        print(f"{file.name} and what Keycloak makes of it differ: change the file until they do not")
        return 1
    print(f"{file.name} is what Keycloak exports after importing it")
    return 0


def edit(found: Distribution, file: Path, port: int) -> int:
    """Runs Keycloak for changes in its admin console, and writes them into the file."""

    def use(home: Path, files: list[Path]) -> None:
        _step("starting Keycloak")
        with serve(found, home, files, port=port, options=[database(home)]) as running:
            print(f"open {running.base_url}/admin/master/console/#/gatehouse")
            print(f"sign in as {ADMIN} with the password {ADMIN_PASSWORD}")
            print("press Enter when you have made your changes")
            sys.stdin.readline()

    export, baseline = exported(found, file, use)
    return adopt(file, export, baseline)


def adopt(file: Path, export: Json, baseline: Json) -> int:
    """Writes what an export has changed into the file, and says what that was."""
    written = _read(file)
    before, after = normal(written, baseline), normal(completed(export, written), baseline)
    diff = difference(before, after, f"{file.name} (as it was)", f"{file.name} (as it is now)")
    if not diff:
        print(f"{file.name} says all that already")
        return 0
    text = json.dumps(adopted(written, before, after), indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
    print(diff)
    print(f"written into {file}; exports have no passwords: give new users theirs, then run make realm-check")
    return 0


def _read(file: Path) -> Json:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KeycloakError(f"{file}: is not JSON ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("realm"), str):
        raise KeycloakError(f"{file}: is not a realm")
    return found


def _step(text: str) -> None:
    print(f"{text} ...", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 when the file and Keycloak differ, 2 when it cannot be said."""
    parser = argparse.ArgumentParser(
        description="Keeps the realm file and Keycloak the same.",
        epilog="Needs KEYCLOAK_HOME and JAVA_HOME; see docs/keycloak.md.",
    )
    parser.add_argument("--file", type=Path, default=REALM_FILE, help="the realm file")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="imports the file, exports the realm, compares")
    editing = commands.add_parser("edit", help="runs Keycloak for changes in its admin console, adopts them")
    editing.add_argument("--port", type=int, default=8180, help="of 127.0.0.1, for the console (8180)")
    adopting = commands.add_parser("adopt", help="writes what an export has changed into the file")
    adopting.add_argument("export", type=Path, help="an export, whole or partial, of kc.sh or the console")
    asked = parser.parse_args(arguments)
    try:
        found = distribution(os.environ)
        if asked.command == "check":
            return check(found, asked.file)
        if asked.command == "edit":
            return edit(found, asked.file, asked.port)
        return adopt(asked.file, _read(asked.export), _baseline(found, asked.file))
    except (KeycloakError, OSError) as error:
        print(f"realm.py: {error}", file=sys.stderr)
        return 2


def _baseline(found: Distribution, file: Path) -> Json:
    def use(home: Path, files: list[Path]) -> None:
        _step("Keycloak imports")
        run_command(found, home, "import", "--optimized", f"--dir={files[0].parent}", database(home))

    return exported(found, file, use)[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
