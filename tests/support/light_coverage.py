"""Coverage at a lower cost, for tests that use no database.

SQLAlchemy runs drivers in greenlets. To follow them, coverage looks up the current greenlet at every call of
every function in the process, also in gRPC and pytest. While tests are collected, and in the files below, a
second measurement without this takes the place of the first one, which pytest-cov started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folders and files in tests/, by the start of their path.
WITHOUT_DATABASE = (
    "app/test_issuer_check",
    "cli/",
    "client/",
    "console/",
    "docs/",
    "fuzz/",
    "hostile/",
    "issuers/",
    "oauth/",
    "project/",
    "rpc/",
    "settings/",
    "testbed/test_issuer",
    "tools/",
)


class LightCoverage:
    """A measurement that can be turned on and off; coverage pauses the first one while it is on."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(
            config_file=str(ROOT / "pyproject.toml"), data_suffix=True, concurrency=["thread"], messages=False
        )
        self._coverage.set_option("run:patch", [])  # child processes have the configuration of the first one
        # What the first measurement has seen is no reason for a warning.
        self._coverage.set_option("run:disable_warnings", ["module-not-measured", "no-data-collected"])
        self._is_on = False

    def turn(self, *, on: bool) -> None:
        """Turn it on or off."""
        if on != self._is_on:
            self._is_on = on
            (self._coverage.start if on else self._coverage.stop)()

    def save(self) -> None:
        """Turn it off, and write what it has measured to a file of its own, which pytest-cov combines."""
        self.turn(on=False)
        self._coverage.save()


_light: list[LightCoverage] = []


@pytest.hookimpl(trylast=True)  # after pytest-cov has started the first measurement
def pytest_sessionstart() -> None:
    """Measure the collection of the tests."""
    if coverage.Coverage.current() is not None and "PYTEST_XDIST_WORKER" in os.environ:
        _light.append(LightCoverage())
        _light[0].turn(on=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Choose the measurement by the file of the test."""
    if _light:
        path = item.path.relative_to(ROOT / "tests").as_posix()
        _light[0].turn(on=path.startswith(WITHOUT_DATABASE))
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)  # before pytest-cov stops the first measurement
def pytest_runtestloop() -> Iterator[None]:
    """End the second measurement with the tests."""
    try:
        return (yield)
    finally:
        while _light:
            _light.pop().save()
