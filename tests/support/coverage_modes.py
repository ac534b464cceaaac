"""Coverage where it is needed, because it takes as much CPU time as the tests themselves.

- Suites that send many inputs through code which other tests cover are not measured.
- SQLAlchemy runs drivers in greenlets. To follow them, coverage looks up the current greenlet at every call
  of every function in the process, also in gRPC and pytest. While tests are collected, and in tests without
  a database, a second measurement without this takes the place of the first one, which pytest-cov started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folders and files in tests/, by the start of their path.
UNMEASURED = ("hostile/", "project/", "tools/")
WITHOUT_DATABASE = (
    "app/test_issuer_check",
    "cli/",
    "client/",
    "console/",
    "docs/",
    "fuzz/",
    "issuers/",
    "oauth/",
    "rpc/",
    "settings/",
    "testbed/test_issuer",
)


class Modes:
    """The measurements of a worker, of which at most one is on.

    Args:
        first: The one that pytest-cov has started.
    """

    def __init__(self, first: coverage.Coverage) -> None:
        self.full = first
        while (started := coverage.Coverage.current()) is not None:  # pytest-cov starts two in a worker
            started.stop()
        self._current: coverage.Coverage | None = None
        self.light = coverage.Coverage(
            config_file=str(ROOT / "pyproject.toml"), data_suffix=True, concurrency=["thread"], messages=False
        )
        for each in (self.full, self.light):
            each.set_option("run:patch", [])  # a start must not turn coverage on in child processes
        # What the first measurement has seen is no reason for a warning.
        self.light.set_option("run:disable_warnings", ["module-not-measured", "no-data-collected"])

    def of(self, path: str) -> coverage.Coverage | None:
        """Return the measurement for a file in tests/."""
        if path.startswith(UNMEASURED):
            return None
        return self.light if path.startswith(WITHOUT_DATABASE) else self.full

    def turn_on(self, measurement: coverage.Coverage | None) -> None:
        """Turn one on in place of the current one, or none."""
        if measurement is not self._current:
            if self._current is not None:
                self._current.stop()
            if measurement is not None:
                measurement.start()
            self._current = measurement


_modes: list[Modes] = []


@pytest.hookimpl(trylast=True)  # after pytest-cov has started the first measurement
def pytest_sessionstart() -> None:
    """Measure the collection of the tests, which imports the code."""
    first = coverage.Coverage.current()
    if first is not None and "PYTEST_XDIST_WORKER" in os.environ:
        _modes.append(Modes(first))
        _modes[0].turn_on(_modes[0].light)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Choose the measurement by the file of the test."""
    if _modes:
        _modes[0].turn_on(_modes[0].of(item.path.relative_to(ROOT / "tests").as_posix()))
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)  # before pytest-cov stops the first measurement
def pytest_runtestloop() -> Iterator[None]:
    """Write what the second measurement has seen to a separate file, which pytest-cov combines."""
    try:
        return (yield)
    finally:
        while _modes:
            modes = _modes.pop()
            modes.turn_on(modes.full)
            modes.light.save()
