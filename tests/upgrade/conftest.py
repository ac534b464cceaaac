"""The suite needs a previous version; without one, it ends with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upgrade.previous import NoPreviousVersion, Previous, find_previous

ROOT = Path(__file__).resolve().parents[2]
_PREVIOUS = pytest.StashKey[Previous]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the previous version."""
    parser.addoption("--previous", default="", help="commit or tag of the previous version")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the previous version, and print which one it is."""
    config = session.config
    try:
        config.stash[_PREVIOUS] = find_previous(ROOT, config.getoption("--previous"))
    except NoPreviousVersion as error:
        pytest.exit(f"tests/upgrade: {error}", returncode=1)
    if not hasattr(config, "workerinput"):
        config.get_terminal_writer().line(str(config.stash[_PREVIOUS]))


@pytest.fixture
def previous(request: pytest.FixtureRequest) -> Previous:
    """The previous version."""
    return request.config.stash[_PREVIOUS]
