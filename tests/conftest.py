"""Environment of all tests; the shared fixtures are in tests/support."""

import gc
import os
from collections.abc import Iterator

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from gatehouse_testbed.environments import libpq_environment

# Tests start PostgreSQL, and are clients of it, in this process.
_clean = libpq_environment(os.environ)
os.environ.clear()
os.environ.update(_clean)
# The fork handlers of a running gRPC would end a process that is started with a fork. gRPC reads the variable
# when it is imported, so set it first.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# As in gatehouse/__main__.py.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# No test uses the logins or the keyring of the developer.
os.environ["XDG_STATE_HOME"] = "/nonexistent"
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

# A slow machine is not a defect; speed is measured by `make bench`.
hypothesis.settings.register_profile("gatehouse", deadline=None)
hypothesis.settings.load_profile("gatehouse")

# They import one another, and pytest must rewrite their assertions before that.
pytest.register_assert_rewrite("tests.support")
# The modules with fixtures. Tests import everything else that they use.
pytest_plugins = [
    "tests.support.certificates",
    "tests.support.cli",
    "tests.support.database",
    "tests.support.environment",
    "tests.support.folders",
    "tests.support.foreign",
    "tests.support.home",
    "tests.support.issuer",
    "tests.support.keycloak_admin",
    "tests.support.oauth_fixtures",
    # <part admin>
    "tests.support.role_sync",
    # </part admin>
    "tests.support.rpc",
    "tests.support.services",
    "tests.support.telemetry",
]

# One worker of pytest-xdist runs all files of such a folder: they share services that take seconds to start.
TOGETHER = ("tests/console/", "tests/system/")
# A run is over when its last file is, so the files with the longest tests come first.
LONGEST = (
    "tests/testbed/test_demo.py",
    *TOGETHER,
    "tests/admin/test_role_sync.py",
    "tests/app/",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for a real PgBouncer."""
    parser.addoption(
        "--pooler",
        choices=["pgbouncer"],
        help="what is between the services and PostgreSQL; pgbouncer must be installed",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the files with the longest tests first; leave out those that a pooler would make pointless."""
    if config.getoption("--pooler"):
        direct = [item for item in items if item.get_closest_marker("session")]
        config.hook.pytest_deselected(items=direct)
        items[:] = [item for item in items if item not in direct]

    def rank(item: pytest.Item) -> int:
        ranks = (number for number, start in enumerate(LONGEST) if item.nodeid.startswith(start))
        return next(ranks, len(LONGEST))

    items.sort(key=rank)


class Scheduling(LoadFileScheduling):
    """Send each file to one worker, and all files of a folder in TOGETHER to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return next((folder for folder in TOGETHER if scope.startswith(folder)), scope)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Schedule as above with `--dist loadfile`."""
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while tests are imported, and later not among what was imported."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
