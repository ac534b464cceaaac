"""Remove a service or another part: `remove.py NAME`, or `make remove NAME=admin`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from gatehouse.app.services import SERVICES
from tools.parts import PARTS, remove_part, remove_service

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Remove the part that the command line names."""
    parser = argparse.ArgumentParser(prog="make remove", description="Remove a service or another part.")
    parser.add_argument("name", help="such as admin")
    name = parser.parse_args().name
    known = [*SERVICES, *(part for part in PARTS if part not in SERVICES)]
    if name not in known:
        print(f"remove: {name}: no such part; use one of {', '.join(known)}", file=sys.stderr)
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
