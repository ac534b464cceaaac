"""The services on a PostgreSQL of three nodes: what a failover costs, and that it loses nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.environment import Environment, open_environment
from tests.chaos.model import Fault
from tests.chaos.report import line
from tests.chaos.run import try_fault
from tests.ha.cluster import run_cluster
from tests.ha.faults import FAULTS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def environment() -> AsyncIterator[Environment]:
    """The system, with a cluster."""
    async with open_environment(lambda _: None) as running, run_cluster() as cluster:
        running.control, running.owner_url = cluster, cluster.owner_url
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each fault; with --quick the quick ones."""
    if "fault" in metafunc.fixturenames:
        faults = [one for one in FAULTS if one.quick or not metafunc.config.getoption("--quick")]
        metafunc.parametrize("fault", faults, ids=[one.name for one in faults])


async def test_failover_keeps_all_promises(environment: Environment, fault: Fault) -> None:
    row = await try_fault(environment, fault)
    sys.stdout.write(f"{line(row)}\n")
    assert row.kept, line(row)
