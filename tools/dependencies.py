"""List which modules import each dependency that is declared in pyproject.toml."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ROOT / "services"
SHOWN = 3


def name_of(requirement: str) -> str:
    """Return the normalized project name of a requirement such as `psycopg[binary]>=3` (PEP 503)."""
    name = re.split(r"[\[;<>=!~ ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def groups() -> dict[str, list[str]]:
    """Return the requirements of each group: `production`, each extra, each dependency group."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = content["project"]
    return {
        "production": project["dependencies"],
        **project["optional-dependencies"],
        **content["dependency-groups"],
    }


def owners() -> dict[str, str]:
    """Return, for each importable module that is installed, the name of its distribution.

    Modules are looked up in the files of a distribution, since several share the namespace packages
    `google` and `opentelemetry`.
    """
    found: dict[str, str] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            parts = list(file.parts)
            if file.suffix not in {".py", ".so"} or ".." in parts:
                continue
            parts[-1] = parts[-1].split(".")[0]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = name_of(distribution.name)
    return found


def imports(module: Path) -> Iterator[tuple[str, ...]]:
    """Yield each absolute import of a module as the names that it may mean, the longest first."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


def importers(folder: Path, modules: Mapping[str, str]) -> dict[str, list[Path]]:
    """Return the modules below a folder that import each distribution.

    Args:
        folder: A package; it need not exist.
        modules: The distribution of each module, see `owners`.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.py")):
        candidates = [next((name for name in names if name in modules), None) for names in imports(path)]
        for distribution in {modules[name] for name in candidates if name is not None}:
            found.setdefault(distribution, []).append(path)
    return found


def main() -> None:
    """Print one line for each runtime dependency: its group, its name, where it is imported."""
    modules = owners()
    for group, package in (
        ("production", "gatehouse"),
        # <part console>
        ("console", "gatehouse_console"),
        # </part console>
        ("testbed", "gatehouse_testbed"),
    ):
        found = importers(SERVICES / package, modules)
        for name in map(name_of, groups()[group]):
            places = [str(path.relative_to(SERVICES)) for path in found.get(name, [])]
            first, rest = places[:SHOWN], places[SHOWN:]
            more = f" and {len(rest)} more" if rest else ""
            print(f"{group:10}  {name:40}  {', '.join(first) or 'not imported'}{more}")


if __name__ == "__main__":
    main()
