"""The system that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.system import System, run_system


@pytest.fixture(scope="package")
def system() -> Iterator[System]:
    """The whole system, until the last test of this folder; a test that stops a part starts it again."""
    with run_system() as running:
        yield running
