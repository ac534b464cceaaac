"""Coverage of child processes: off unless a test asks for it, because it doubles the CPU time of a start."""

from __future__ import annotations

import os
from pathlib import Path

import coverage

_CONFIGURATION = str(Path(__file__).resolve().parents[2] / "pyproject.toml")


def measured_command(*command: str) -> tuple[str, ...]:
    """Return arguments of Python that run `command`, measured without its children if the test is."""
    if coverage.Coverage.current() is None:
        return command
    return ("-m", "coverage", "run", f"--rcfile={_CONFIGURATION}", *command)


def measured(environment: dict[str, str]) -> dict[str, str]:
    """Return `environment` with coverage turned on if the test is measured."""
    if coverage.Coverage.current() is None:
        return environment
    return environment | {
        "COVERAGE_PROCESS_START": _CONFIGURATION,
        "COVERAGE_FILE": os.environ["COVERAGE_FILE"],
    }
