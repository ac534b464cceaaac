"""The list of `make mutants`, and how a mutant is tried."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAN = tomllib.loads((ROOT / "tools/mutants.toml").read_text())
MODULES = ROOT / "services/gatehouse"


def test_modules_and_tests_of_the_list_exist() -> None:
    for module, tests in PLAN["tests"].items():
        assert (MODULES / module).is_file()
        for test in tests:
            path, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / path).read_text()


@pytest.mark.parametrize("entry", PLAN.get("equivalent", []), ids=lambda entry: entry["original"])
def test_an_equivalent_mutant_has_a_reason_and_its_original_is_in_the_code(entry: dict[str, str]) -> None:
    assert len(entry["reason"]) > 10
    code = " ".join(line.strip() for line in (MODULES / entry["module"]).read_text().splitlines())
    assert entry["original"] in code
    assert entry["mutant"] != entry["original"]


_TRY = """
from pathlib import Path
from tools.mutant_process import Limits, outcome_of
from tools.mutants import Plan, run
source = Path("services/gatehouse/oauth/presented_token.py").read_text()
tests = ["tests/oauth/test_presented_token.py"]
for old, new in (("", ""), ("len(entries) > 1", "len(entries) > 2"), ("import re", "")):
    mutant = source.replace(old, new)
    print(outcome_of("gatehouse.oauth.presented_token", mutant, tests, Limits()))
print(outcome_of("gatehouse.oauth.presented_token", source, tests, Limits(seconds=0)))
print(list(run(Plan.load(), "oauth/presented_token.py", [], ends=0)))
"""


def test_a_mutant_is_killed_if_a_test_fails_or_cannot_be_imported_but_not_if_the_time_is_over() -> None:
    """In a process of its own, as it forks."""
    done = subprocess.run(
        [sys.executable, "-c", _TRY], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["survived", "killed", "killed", "timeout", "[]"], done.stderr


def test_an_unknown_commit_is_reported_in_one_line() -> None:
    command = [sys.executable, "-m", "tools.mutants", "--changed", "no-such-commit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("mutants: --changed no-such-commit: fatal: ")
    assert done.stderr.count("\n") == 1


def test_a_module_that_is_not_tried_for_lack_of_time_is_no_failure() -> None:
    command = [sys.executable, "-m", "tools.mutants", "--seconds", "0", "rpc/router.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0
    assert "rpc/router.py                not tried, as the time is over" in done.stdout
