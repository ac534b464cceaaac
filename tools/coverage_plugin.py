"""Measure branch coverage in the workers of pytest-xdist; tools/test.py loads this plugin by PYTEST_PLUGINS.

Coverage takes as much CPU time as the tests themselves, so it is on only where it is needed:

- What all workers import while they collect the tests is measured in the first one.
- Suites that send many inputs through code which other tests cover are not measured.
- SQLAlchemy runs drivers in greenlets. To follow them, coverage looks up the current greenlet at every call
  of every function in the process, also in gRPC and pytest. There are two measurements: a full one, and a
  light one without this for tests without a database.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folders and files in tests/, by the start of their path.
UNMEASURED = ("console/test_hostile", "hostile/", "project/", "tools/")
WITHOUT_DATABASE = (
    "app/test_issuer_check",
    "cli/",
    "client/",
    # <part console>
    "console/",
    # </part console>
    "docs/",
    "fuzz/",
    "issuers/",
    "oauth/",
    "rpc/",
    "settings/",
)


def _make(concurrency: list[str]) -> coverage.Coverage:
    made = coverage.Coverage(
        config_file=str(ROOT / "pyproject.toml"), data_suffix=True, concurrency=concurrency, messages=False
    )
    # What the other measurement, or another worker, has seen is no reason for a warning.
    seen_elsewhere = ["module-not-imported", "module-not-measured", "no-data-collected"]
    made.set_option("run:disable_warnings", seen_elsewhere)
    return made


class Measurements:
    """The measurements of a worker, of which at most one is on."""

    def __init__(self) -> None:
        self._full = _make(["thread", "greenlet"])
        self._light = _make(["thread"])
        self._current: coverage.Coverage | None = None

    def of_imports(self, worker: str) -> coverage.Coverage | None:
        """Return the measurement for what a worker imports."""
        return self._light if worker == "gw0" else None

    def of_test(self, item: pytest.Item) -> coverage.Coverage | None:
        """Return the measurement for a test."""
        path = item.path.relative_to(ROOT / "tests").as_posix()
        if path.startswith(UNMEASURED):
            return None
        return self._light if path.startswith(WITHOUT_DATABASE) else self._full

    def turn_on(self, measurement: coverage.Coverage | None) -> None:
        """Turn one on in place of the current one, or none."""
        if measurement is not self._current:
            if self._current is not None:
                self._current.stop()
            if measurement is not None:
                measurement.start()
            self._current = measurement

    def save(self) -> None:
        """Write what was measured to two files, which tools/test.py combines."""
        self.turn_on(None)
        for each in (self._full, self._light):
            each.save()


class Plugin:
    """Hooks of a worker.

    Args:
        measurements: Its measurements.
    """

    def __init__(self, measurements: Measurements) -> None:
        self._measurements = measurements

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Choose the measurement by the test."""
        self._measurements.turn_on(self._measurements.of_test(item))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        """Write what was measured when all tests are over."""
        try:
            return (yield)
        finally:
            self._measurements.save()


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Start to measure, before anything that is measured is imported."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        del os.environ["PYTEST_PLUGINS"]  # not for a pytest that a test starts
        measurements = Measurements()
        measurements.turn_on(measurements.of_imports(worker))
        pluginmanager.register(Plugin(measurements))
