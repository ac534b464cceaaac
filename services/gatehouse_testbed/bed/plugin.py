"""The pytest plugin: the fixtures `gatehouse` and `gatehouse_issuer`, and the sessions behind them.

It is loaded in every test run where Gatehouse is installed, so it imports nothing until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gatehouse_testbed.bed.client import Testbed

_SHARED, _LOCK = "gatehouse_shared", "gatehouse_lock"
_given = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the test bed."""
    parser.getgroup("gatehouse").addoption(
        "--gatehouse-shared",
        action="store_true",
        help="With pytest-xdist: one test bed for all workers; tests with the fixture gatehouse take turns.",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controller of pytest-xdist, before it starts a worker: share one test bed."""
    config: pytest.Config = node.config
    if not config.getoption(_SHARED):
        return
    if _given not in config.stash:
        config.stash[_given] = _start_shared(config)
    node.workerinput |= config.stash[_given]


def _start_shared(config: pytest.Config) -> dict[str, Any]:
    """Run a test bed until pytest ends; return what a worker needs to use it."""
    import tempfile  # noqa: PLC0415 - see above

    from gatehouse_testbed.bed.client import run_testbed  # noqa: PLC0415
    from gatehouse_testbed.errors import TestbedError  # noqa: PLC0415

    stack = ExitStack()
    config.add_cleanup(stack.close)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pytest-gatehouse-"))
    lock = f"{folder}/turn"
    try:
        testbed = stack.enter_context(run_testbed())
    except TestbedError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.INTERNAL_ERROR)
    return {_SHARED: testbed.description, _LOCK: lock}


@pytest.fixture(scope="session")
def gatehouse_session(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A test bed that runs until the end of the session; nothing is reset between tests."""
    from gatehouse_testbed.bed.client import Testbed, run_testbed  # noqa: PLC0415 - see above

    shared = _input(request, _SHARED)
    with run_testbed() if shared is None else closing(Testbed(shared)) as testbed:
        yield testbed


@pytest.fixture
def gatehouse(request: pytest.FixtureRequest, gatehouse_session: Testbed) -> Iterator[Testbed]:
    """The test bed of the session, as new: what earlier tests have changed is undone."""
    with _turn(_input(request, _LOCK)):
        gatehouse_session.reset()
        yield gatehouse_session


def _input(request: pytest.FixtureRequest, name: str) -> Any:
    """Return what the controller of pytest-xdist gave to this worker, None otherwise."""
    return getattr(request.config, "workerinput", {}).get(name)


@contextmanager
def _turn(lock: str | None) -> Iterator[None]:
    """Wait until no other worker uses the shared test bed. A worker that is killed ends its turn as well."""
    if lock is None:
        yield
        return
    import fcntl  # noqa: PLC0415 - see above

    with open(lock, "ab") as file:  # noqa: PTH123 - a path from the controller
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def gatehouse_issuer_session() -> Iterator[Testbed]:
    """A test bed that is only an issuer; nothing is reset between tests."""
    from gatehouse_testbed.bed.client import run_testbed  # noqa: PLC0415 - see above

    with run_testbed("--issuer-only") as testbed:
        yield testbed


@pytest.fixture
def gatehouse_issuer(gatehouse_issuer_session: Testbed) -> Testbed:
    """The issuer of the session, without services, as new."""
    gatehouse_issuer_session.reset()
    return gatehouse_issuer_session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the services and the issuer have seen to the report of a failed test."""
    report = yield
    used = getattr(item, "funcargs", {})
    testbed = used.get("gatehouse") or used.get("gatehouse_issuer")
    if testbed is not None and report.when == "call" and report.failed:
        from gatehouse_testbed.bed.report import report as seen  # noqa: PLC0415 - see above

        report.sections.append(("Gatehouse test bed", seen(testbed)))
    return report
