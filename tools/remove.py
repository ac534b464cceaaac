"""Remove a service or another part: `remove.py NAME`, or `make remove NAME=admin`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gatehouse.app.services import SERVICES
from tools.parts import PARTS, problem_of_part, remove_part, remove_service, without_part

ROOT = Path(__file__).resolve().parent.parent


def importers(root: Path, name: str) -> list[str]:
    """Return the Python files that would still import a part if it were removed."""
    own = [*PARTS[name].paths] if name in PARTS else []
    if name in SERVICES:
        own += [f"services/gatehouse/{name}", f"tests/{name}"]
    modules = tuple(path.removeprefix("services/").removesuffix(".py").replace("/", ".") for path in own)
    found = []
    for folder in ("benchmarks", "compose", "services", "tests", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            place = path.relative_to(root).as_posix()
            is_own = any(place == one or place.startswith(f"{one}/") for one in own)
            rest = "" if is_own else without_part(path.read_text(), name) or ""
            if any(f"{module}.".startswith(f"{one}.") for module in _imported(rest) for one in modules):
                found.append(place)
    return found


def _imported(text: str) -> Iterator[str]:
    """Yield the modules that Python code imports, and what it imports of them."""
    pattern = r"^\s*(?:from ([\w.]+) import \(?([\w, ]*)|import ([\w.]+))"
    for module, names, plain in re.findall(pattern, text, re.MULTILINE):
        yield plain or module
        yield from (f"{module}.{name.strip()}" for name in names.split(",") if name.strip())


def main() -> int:
    """Remove the part that the command line names."""
    parser = argparse.ArgumentParser(prog="make remove", description="Remove a service or another part.")
    parser.add_argument("name", help="such as admin")
    name = parser.parse_args().name
    problem = problem_of_part(name, [name], SERVICES)
    if problem:
        print(f"remove: NAME={name}: {problem}", file=sys.stderr)
        return 2
    others = importers(ROOT, name)
    if others:
        print(
            f"remove: {name}: {len(others)} files outside of its folders import it, such as {others[0]}; "
            "change them first, see docs/make-it-your-own.md",
            file=sys.stderr,
        )
        return 2
    print(f"removing {name} from all files", flush=True)
    if name in SERVICES:
        remove_service(ROOT, name)
    else:
        remove_part(ROOT, name)
    # Imports that only the removed code has used.
    subprocess.run(["ruff", "check", "-q", "--fix", "--exit-zero", "."], cwd=ROOT, check=True)
    subprocess.run(["ruff", "format", "-q", "."], cwd=ROOT, check=True)
    # Modules that were removed are still known to this process. What these processes list is not printed,
    # because it is only a part of the changes.
    for command in (["tools/document.py"], ["-m", "tools.manifests"]):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print("next: make lint test, then look at the changes with git diff")
    return 0


if __name__ == "__main__":
    sys.exit(main())
