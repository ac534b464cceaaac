"""The pytest plugin: the fixtures `gatehouse` and `gatehouse_issuer`, and the sessions behind them.

It is loaded in every test run where Gatehouse is installed, so it imports nothing until a fixture is used.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gatehouse_testbed.bed.client import Testbed

_SHOWN = 50


@pytest.fixture(scope="session")
def gatehouse_session() -> Iterator[Testbed]:
    """A test bed that runs until the end of the session; nothing is reset between tests."""
    from gatehouse_testbed.bed.client import run_testbed  # noqa: PLC0415 - see above

    with run_testbed() as testbed:
        yield testbed


@pytest.fixture
def gatehouse(gatehouse_session: Testbed) -> Testbed:
    """The test bed of the session, as new: what earlier tests have changed is undone."""
    gatehouse_session.reset()
    return gatehouse_session


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
        report.sections.append(("Gatehouse test bed", _evidence(testbed)))
    return report


def _evidence(testbed: Testbed) -> str:
    from gatehouse_testbed.errors import TestbedError  # noqa: PLC0415 - see above

    try:
        calls, requests = testbed.calls()[-_SHOWN:], testbed.issuer_requests()[-_SHOWN:]
        warnings = [line for line in testbed.logs() if line["level"] not in {"debug", "info"}][-_SHOWN:]
        faults = testbed.faults.list()
    except TestbedError as error:
        return str(error)
    lines = [
        f"call   {c.method} by {c.caller or 'an unknown caller'}: {c.code} {c.reason} (trace {c.trace_id})"
        for c in calls
    ]
    lines += [f"issuer {r.method} {r.endpoint}: {r.status or 'no answer'}" for r in requests]
    lines += [f"log    {json.dumps(line)}" for line in warnings]
    lines += [f"fault  {name}: {fault}" for name, fault in faults.items()]
    return "\n".join(lines) or "no call, no request to the issuer, no fault"
