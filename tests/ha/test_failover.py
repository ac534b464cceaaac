"""The services on a PostgreSQL of three nodes: what a failover costs, and that it loses nothing."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.chaos.environment import Environment, open_environment
from tests.chaos.model import Fault
from tests.chaos.report import line
from tests.chaos.run import try_fault
from tests.ha.cluster import Cluster, run_cluster
from tests.ha.faults import FAULTS, LOSES_WRITES, with_standbys
from tests.support.eventually import eventually

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


async def test_failover_holds_all_guarantees(environment: Environment, fault: Fault) -> None:
    row = await try_fault(environment, fault)
    sys.stdout.write(f"{line(row)}\n")
    assert row.held, line(row)


async def test_callers_of_two_processes_see_their_own_writes_while_standbys_lag(
    environment: Environment,
) -> None:
    cluster: Cluster = environment.control
    async with (
        with_standbys(environment) as target,
        environment.channel(target.ports[:1], environment.worker()) as writing,
        environment.channel(target.ports[1:], environment.worker()) as reading,
    ):
        writer: Any = users_pb2_grpc.UserServiceStub(writing)
        reader: Any = users_pb2_grpc.UserServiceStub(reading)

        async def newest(*tokens: str) -> pb.User:
            request = pb.ListUsersRequest(page_size=1, order_by="create_time desc")
            metadata = [("x-write-token", token) for token in tokens]
            (user,) = (await reader.ListUsers(request, metadata=metadata)).users
            assert isinstance(user, pb.User)
            return user

        async def write() -> tuple[pb.User, str]:
            user = pb.User(email=f"{uuid.uuid4().hex}@example.test", display_name="Alice")
            call = writer.CreateUser(pb.CreateUserRequest(user=user))
            return await call, dict(await call.trailing_metadata())["x-write-token"]

        async def standbys_answer() -> bool:
            await newest("0")
            return await target.standby_reads() > 0

        await write()
        await eventually(standbys_answer)
        standbys = await cluster.standbys()
        for node in standbys:
            await cluster.sql(node, "SELECT pg_wal_replay_pause()")
        try:
            for _ in range(10):
                user, token = await write()
                assert await newest(token) == await newest() == user
        finally:
            for node in standbys:
                await cluster.sql(node, "SELECT pg_wal_replay_resume()")


@pytest.mark.full
async def test_lost_writes_are_noticed(environment: Environment) -> None:
    """Asynchronous replication loses writes; so the guarantee above can be violated."""
    row = await try_fault(environment, LOSES_WRITES)
    sys.stdout.write(f"{line(row)}\n")
    assert row.lost, line(row)
    assert "no acknowledged write is lost" in {p.text for p in row.guarantees if not p.held}
