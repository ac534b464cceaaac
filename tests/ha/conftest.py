"""The suite needs etcd and Patroni; without them it ends with one line."""

from __future__ import annotations

import pytest

from tests.ha import programs
from tests.support.toolchains import Missing


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for a bounded form."""
    parser.addoption("--quick", action="store_true", help="leave out the faults that take longest")


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    try:
        programs.require()
    except Missing as error:
        pytest.exit(f"tests/ha: {error}", returncode=1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --quick, leave out the tests that take longest."""
    if config.getoption("--quick", default=False):
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
