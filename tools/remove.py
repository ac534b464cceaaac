"""Remove a service or another part: `remove.py NAME`, or `make remove NAME=admin`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from gatehouse.app.services import SERVICES
from tools.parts import PARTS, remove_part, remove_service, without_part

ROOT = Path(__file__).resolve().parent.parent


def importers(root: Path, name: str) -> list[str]:
    """Return the Python files that would still import a service if it were removed."""
    own = (f"services/gatehouse/{name}/", f"tests/{name}/")
    found = []
    for folder in ("benchmarks", "compose", "services", "tests", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            place = path.relative_to(root).as_posix()
            rest = without_part(path.read_text(), name) or ""
            pattern = rf"^\s*(from|import) gatehouse\.{name}\b"
            if not place.startswith(own) and re.search(pattern, rest, re.MULTILINE):
                found.append(place)
    return found


def main() -> int:
    """Remove the part that the command line names."""
    parser = argparse.ArgumentParser(prog="make remove", description="Remove a service or another part.")
    parser.add_argument("name", help="such as admin")
    name = parser.parse_args().name
    known = [*SERVICES, *(part for part in PARTS if part not in SERVICES)]
    if name not in known:
        print(f"remove: {name}: no such part; use one of {', '.join(known)}", file=sys.stderr)
        return 2
    others = importers(ROOT, name) if name in SERVICES else []
    if others:
        print(
            f"remove: {name}: {len(others)} files outside of its folders import it, such as {others[0]}; "
            "change them first, see docs/make-it-your-own.md",
            file=sys.stderr,
        )
        return 2
    if name in SERVICES:
        remove_service(ROOT, name)
    else:
        remove_part(ROOT, name)
    # Imports that only the removed code has used.
    subprocess.run(["ruff", "check", "-q", "--fix", "--exit-zero", "."], cwd=ROOT, check=True)
    subprocess.run(["ruff", "format", "-q", "."], cwd=ROOT, check=True)
    # Modules that were removed are still known to this process.
    subprocess.run([sys.executable, "tools/document.py"], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "tools.manifests"], cwd=ROOT, check=True)
    print("next: make lint test, then look at the changes with git diff")
    return 0


if __name__ == "__main__":
    sys.exit(main())
