"""The command: `python -m tools.check_migrations`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from alembic.script import Script, ScriptDirectory

from tools.check_migrations.rendering import Problem, Rendered, reason
from tools.check_migrations.rules import own_rules, squawk

ROOT = Path(__file__).resolve().parents[2]
MIGRATIONS = ROOT / "migrations"


def _refused(rendered: Rendered) -> Iterator[Problem]:
    """Yield the problems that the migration does not allow, and what is wrong with its `allowed`."""
    allowed = getattr(rendered.script.module, "allowed", {})
    if not isinstance(allowed, dict):
        yield Problem(1, "allowed", "must be a dict of reasons by the name of a rule")
        return
    yield from (problem for problem in rendered.problems if problem.rule not in allowed)
    broken = {problem.rule for problem in rendered.problems}
    for rule, why in allowed.items():
        if not isinstance(why, str) or not why.strip():
            yield Problem(1, "allowed", f"{rule} has no reason; say why the running version does not need it")
        if rule not in broken:
            yield Problem(1, "allowed", f"nothing here breaks the rule {rule}; remove it")


def _load(migrations: Path, folder: Path) -> list[Script]:
    """Return the scripts of a service, newest first."""
    directory = ScriptDirectory(str(migrations), version_locations=[str(folder)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as for a down_revision that does not exist
        return list(directory.walk_revisions(head=directory.get_current_head() or "base"))


def check(migrations: Path) -> list[str]:
    """Return one line for each problem of the migrations in a folder, which has a folder for each service."""
    lines: list[str] = []
    everything: list[Rendered] = []
    for folder in sorted(path for path in migrations.iterdir() if any(path.glob("*.py"))):
        try:
            everything += [Rendered(script) for script in reversed(_load(migrations, folder))]
        except Exception as error:  # noqa: BLE001 - whatever the scripts raise
            lines.append(f"{_name(folder)}: cannot be loaded ({reason(error)})")
    squawk(everything)
    for rendered in everything:
        rendered.problems += own_rules(rendered)
        texts = {(problem.line, problem.rule): problem.text for problem in _refused(rendered)}
        path = _name(Path(rendered.script.path))
        lines += (f"{path}:{line}: {rule}: {texts[line, rule]}" for line, rule in sorted(texts))
    return lines


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main() -> int:
    """Print the problems; return 1 if there are any."""
    lines = check(MIGRATIONS)
    for line in lines:
        print(line)
    if lines:
        print("docs/upgrades.md shows what to do instead")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
