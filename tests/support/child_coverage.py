"""Coverage of child processes: off unless a test asks for it, because it doubles the CPU time of a start."""

from __future__ import annotations

import os

import pytest

# What coverage's patch `subprocess` reads in a child process.
_VARIABLE = "COVERAGE_PROCESS_CONFIG"
_kept: dict[str, str] = {}


@pytest.hookimpl(trylast=True)  # after pytest-cov has set it
def pytest_sessionstart() -> None:
    """Turn coverage off for the processes that are started from now on."""
    if _VARIABLE in os.environ:
        _kept[_VARIABLE] = os.environ.pop(_VARIABLE)


def measured_command(*command: str) -> tuple[str, ...]:
    """Return arguments of Python that run `command` with coverage, if it is on, without its children."""
    if not _kept:
        return command
    # The configuration in pyproject.toml would turn it on for the children, too.
    options = (
        *("--rcfile=/dev/null", "--branch", "--parallel-mode"),
        *("--omit=*/v1/*_pb2*.py,*/_launch.py", "--source=gatehouse,gatehouse_testbed"),
    )
    return ("-m", "coverage", "run", *options, *command)


def measured(environment: dict[str, str]) -> dict[str, str]:
    """Return `environment` with coverage turned on if it is on in this process."""
    return environment | _kept
