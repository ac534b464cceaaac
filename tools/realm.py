"""Keep keycloak/gatehouse-realm.json equal to what Keycloak exports after importing it.

realm.py check          import the file, export the realm, print the differences
realm.py edit           run Keycloak for changes in its admin console, then write them into the file
realm.py adopt EXPORT   write the changes in an export of the realm into the file
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

# Run as a script, Python looks for modules in the folder of this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.keycloak import (
    ADMIN,
    ADMIN_PASSWORD,
    Distribution,
    KeycloakError,
    distribution,
    file_database,
    run_command,
    serve,
    warnings_in,
    workspace,
)
from tools.realm_file import DEFAULTS, DEFAULTS_REALM, Json, complete, diff, merge, normalize

REALM_FILE = Path(__file__).resolve().parent.parent / "keycloak" / "gatehouse-realm.json"


def import_realms(keycloak: Distribution, home: Path, file: Path) -> str:
    """Import a realm file, and the realm of defaults, into the workspace `home`; return Keycloak's log."""
    folder = home / "realms"
    folder.mkdir()
    shutil.copy2(file, folder / f"{_read(file)['realm']}-realm.json")
    (folder / f"{DEFAULTS}-realm.json").write_text(json.dumps(DEFAULTS_REALM), encoding="utf-8")
    print("importing ...", file=sys.stderr)
    return run_command(keycloak, home, "import", "--optimized", f"--dir={folder}", file_database(home))


def export_realms(keycloak: Distribution, home: Path, file: Path) -> tuple[Json, Json]:
    """Export the realm that was imported from `file`, and the realm of defaults."""
    folder = home / "exports"
    print("exporting ...", file=sys.stderr)
    run_command(
        keycloak,
        home,
        "export",
        "--optimized",
        "--users=realm_file",
        f"--dir={folder}",
        file_database(home),
    )
    return (
        _read(folder / f"{_read(file)['realm']}-realm.json"),
        _read(folder / f"{DEFAULTS}-realm.json"),
    )


def check(keycloak: Distribution, file: Path) -> int:
    """Print how the file differs from the export after its import; return 1 if it does.

    Raises:
        KeycloakError: Keycloak cannot be run, or it warns about the file.
    """
    with workspace(keycloak) as home:
        warnings = warnings_in(import_realms(keycloak, home, file))
        if warnings:
            raise KeycloakError(f"{file.name}: Keycloak warns about it: {warnings[0]}")
        export, defaults = export_realms(keycloak, home, file)
    differences = diff(
        normalize(_read(file), defaults), normalize(export, defaults), file.name, "Keycloak's export"
    )
    if differences:
        print(differences)
        print(f"{file.name} differs from Keycloak's export; apply the differences above to the file")
        return 1
    print(f"{file.name} equals Keycloak's export")
    return 0


def edit(keycloak: Distribution, file: Path, port: int) -> int:
    """Run Keycloak until Enter is pressed, then write the changes that were made into the file."""
    with workspace(keycloak) as home:
        import_realms(keycloak, home, file)
        print("starting Keycloak ...", file=sys.stderr)
        with serve(keycloak, home, port=port, options=[file_database(home)]) as running:
            print(f"open {running.base_url}/admin/master/console/#/{_read(file)['realm']}")
            print(f"sign in as {ADMIN} with the password {ADMIN_PASSWORD}")
            print("press Enter when you have made your changes")
            sys.stdin.readline()
        export, defaults = export_realms(keycloak, home, file)
    return adopt(file, export, defaults)


def adopt(file: Path, export: Json, defaults: Json) -> int:
    """Write the changes in an export, complete or partial, into the file, and print them."""
    content = _read(file)
    before, after = normalize(content, defaults), normalize(complete(export, content), defaults)
    differences = diff(before, after, f"{file.name} (before)", f"{file.name} (after)")
    if not differences:
        print(f"{file.name} has these settings already; nothing was changed")
        return 0
    text = json.dumps(merge(content, before, after), indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
    print(differences)
    print(f"changed {file}; exports have no passwords: add those of new users, then run make realm-check")
    return 0


def _read(file: Path) -> Json:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KeycloakError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("realm"), str):
        raise KeycloakError(f"{file}: not a realm; it needs a member `realm`")
    return content


def main(arguments: list[str]) -> int:
    """Run one command; return 1 if the file and Keycloak differ, 2 if they cannot be compared."""
    parser = argparse.ArgumentParser(
        description="Keep the realm file equal to what Keycloak makes of it.",
        epilog="Needs KEYCLOAK_HOME and JAVA_HOME; see docs/keycloak.md.",
    )
    parser.add_argument("--file", type=Path, default=REALM_FILE, help="realm file")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="import the file, export the realm, print the differences")
    edit_parser = commands.add_parser("edit", help="change the file in Keycloak's admin console")
    edit_parser.add_argument("--port", type=int, default=8180, help="port of the console (default 8180)")
    adopt_parser = commands.add_parser("adopt", help="write the changes in an export into the file")
    adopt_parser.add_argument("export", type=Path, help="complete or partial export of the realm")
    options = parser.parse_args(arguments)
    try:
        keycloak = distribution(os.environ)
        if options.command == "check":
            return check(keycloak, options.file)
        if options.command == "edit":
            return edit(keycloak, options.file, options.port)
        export = _read(options.export)
        with workspace(keycloak) as home:
            import_realms(keycloak, home, options.file)
            _, defaults = export_realms(keycloak, home, options.file)
        return adopt(options.file, export, defaults)
    except (KeycloakError, OSError) as error:
        print(f"realm.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
