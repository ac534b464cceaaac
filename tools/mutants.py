"""Change the code that decides who may call, in one place at a time, and see whether a test fails.

`python -m tools.mutants [--changed BASE] [--seconds N] [MODULE ...]`; tools/mutants.toml lists the modules,
their tests, and mutants without effect. Exits with 1 if a mutant survives that is not listed there.

tools/mutations.py makes the mutants, with Cosmic Ray. Its runner writes each to disk and starts an
interpreter; here, a process that has imported the libraries forks, and imports the mutant from memory. That
takes a fifth of the time, and nothing needs to be restored.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.mutant_process import Limits, Outcome, outcome_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "services/gatehouse"
GENERATOR = ROOT / ".venv/mutants/bin/python"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed source file; `original` and `mutant` are the lines that differ."""

    path: str
    operator: str
    line: int
    original: str
    mutant: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.original}  ->  {self.mutant}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What tools/mutants.toml says: arguments for pytest by module, and mutants that change nothing."""

    tests: dict[str, list[str]]
    equivalent: set[tuple[str, str, str]]

    @classmethod
    def load(cls) -> Plan:
        """Read the file."""
        raw = tomllib.loads((ROOT / "tools/mutants.toml").read_text())
        entries = raw.get("equivalent", [])
        assert all(entry["reason"] for entry in entries)  # noqa: S101 - a listed mutant needs one
        return cls(raw["tests"], {(e["module"], e["original"], e["mutant"]) for e in entries})

    def lists(self, module: str, mutant: Mutant) -> bool:
        """Return whether a mutant is listed as equivalent."""
        return (module, mutant.original, mutant.mutant) in self.equivalent


def mutants_of(module: str) -> list[Mutant]:
    """Return the mutants of a module."""
    path = f"{PACKAGE}/{module}"
    command = [str(GENERATOR), "tools/mutations.py", path]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Mutant(**json.loads(line)) for line in lines.splitlines()]


def changed_lines(base: str) -> dict[str, set[int]]:
    """Return the lines of each module that differ from a commit."""
    command = ["git", "diff", "--unified=0", "--no-color", "--relative", base, "--", PACKAGE]
    found: dict[str, set[int]] = {}
    module = ""
    git = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if git.returncode:
        sys.exit(f"mutants: --changed {base}: {git.stderr.strip().partition(chr(10))[0]}")
    for line in git.stdout.splitlines():
        if line.startswith("+++ "):
            module = line.removeprefix("+++ b/").removeprefix(f"{PACKAGE}/")
        elif match := re.match(r"@@ \S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(match[1]), int(match[2] or 1)
            found.setdefault(module, set()).update(range(first, first + count))
    return found


def run(plan: Plan, module: str, mutants: Iterable[Mutant], ends: float) -> Iterator[tuple[Mutant, str]]:
    """Yield each mutant with `killed`, `survived` or `equivalent`, until the time is over."""
    name = f"gatehouse.{module.removesuffix('.py').replace('/', '.')}"
    tests = plan.tests[module]

    def outcome(source: str, limits: Limits) -> Outcome:
        seconds = min(limits.seconds, ends - time.monotonic())
        return outcome_of(name, source, tests, limits._replace(seconds=seconds))

    began, began_cpu = time.monotonic(), _cpu_seconds()
    if outcome((ROOT / PACKAGE / module).read_text(), Limits()) != "survived":
        if time.monotonic() > ends:
            return
        sys.exit(f"mutants: the tests of {module} fail without a change; run pytest {' '.join(tests)}")
    limits = Limits(60 + 10 * (time.monotonic() - began), 5 + 4 * (_cpu_seconds() - began_cpu))
    for mutant in mutants:
        if plan.lists(module, mutant):
            yield mutant, "equivalent"
            continue
        found = outcome(mutant.source, limits)
        if found == "timeout" and time.monotonic() > ends:
            return
        yield mutant, "killed" if found == "timeout" else found


def _cpu_seconds() -> float:
    """Return the CPU time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a mutant survives that is not listed."""
    plan = Plan.load()
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--changed", metavar="BASE", help="only mutants of lines that differ from this commit"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as rpc/policy.py; all by default")
    options = parser.parse_args(arguments)
    ends = time.monotonic() + options.seconds
    unknown = set(options.modules) - set(plan.tests)
    if unknown:
        parser.error(f"{min(unknown)}: not in tools/mutants.toml")
    changed = changed_lines(options.changed) if options.changed else None
    survivors, missing = 0, 0
    print(
        f"{'module':28} {'mutants':>8} {'killed':>8} {'equivalent':>10} {'survived':>8} {'score':>7}",
        flush=True,
    )
    for module in options.modules or plan.tests:
        if changed is not None and module not in changed:
            continue
        if time.monotonic() > ends:
            print(f"{module:28} not tried, as the time is over", flush=True)
            continue
        mutants = [m for m in mutants_of(module) if changed is None or m.line in changed[module]]
        counts: Counter[str] = Counter()
        for mutant, outcome in run(plan, module, mutants, ends) if mutants else ():
            counts[outcome] += 1
            if outcome == "survived":
                print(f"  survived: {mutant}", flush=True)
        tried = counts["killed"] + counts["survived"]
        score = f"{counts['killed'] / tried:7.1%}" if tried else "      -"
        figures = f"{counts['killed']:8} {counts['equivalent']:10} {counts['survived']:8}"
        print(f"{module:28} {len(mutants):8} {figures} {score}", flush=True)
        survivors += counts["survived"]
        missing += len(mutants) - counts.total()
    if missing:
        print(f"the time was over before {missing} mutants were tried")
    if survivors:
        print("write a test that fails for each survivor, or list it in tools/mutants.toml with the reason")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
