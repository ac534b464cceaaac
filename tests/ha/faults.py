"""Faults of the nodes: the leader or a standby is lost, stops responding, or is replaced on purpose."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import grpc
import psutil

from tests.chaos.environment import Environment, Target
from tests.chaos.model import TIMES_OUT, Fault, Run
from tests.chaos.workload import WORKERS
from tests.ha.cluster import TTL_SECONDS, Cluster, Node

RESUME_SECONDS = 2.0
# Patroni looks once per second, asks the other nodes, and promotes one.
FAILOVER_SECONDS = TTL_SECONDS + 15.0
_REASONS = frozenset({"DATABASE_UNAVAILABLE", "DATABASE_BUSY", "DATABASE_READ_ONLY", "STATEMENT_TIMEOUT"})
Inject = Callable[[Run], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def on_cluster(environment: Environment) -> AsyncIterator[Target]:
    """Run two replicas of UserService on the cluster, which `environment.control` is."""
    cluster: Cluster = environment.control
    await cluster.settled()
    urls = cluster.urls()
    async with environment.replicas(count=2, GATEHOUSE_USERS__DATABASE_URL=urls["users"]) as target:
        target.control = cluster
        yield target


@asynccontextmanager
async def with_standbys(environment: Environment) -> AsyncIterator[Target]:
    """Run two replicas of UserService on the cluster, which read from its standbys."""
    cluster: Cluster = environment.control
    await cluster.settled()
    await cluster.checkpoint()
    settings = {
        "GATEHOUSE_USERS__DATABASE_URL": cluster.urls()["users"],
        "GATEHOUSE_USERS__STANDBY_URL": cluster.standby_url,
    }
    async with environment.replicas(count=2, **settings) as target:
        target.control, target.standbys = cluster, True
        yield target


async def _promoted(run: Run, old: Node) -> None:
    """Wait until another node is the leader, then until a write succeeds, and judge the time between."""
    cluster: Cluster = run.target.control
    others = [node for node in cluster.nodes if node is not old]
    began = time.monotonic()

    async def promoted() -> bool:
        return any(await asyncio.gather(*map(cluster.is_writable, others)))

    found = await run.until(promoted, FAILOVER_SECONDS)
    at = time.monotonic()
    run.guarantee("another node becomes the leader", found, f"{at - began:.1f} s")
    await _writes(run, at)


async def _writes(run: Run, since: float) -> None:
    def written() -> bool:
        return any(
            outcome.call == "create_user" and outcome.code is grpc.StatusCode.OK and outcome.ended > since
            for outcome in run.work.load.outcomes
        )

    resumed = await run.until(written)
    seconds = time.monotonic() - since
    text = f"writes resume within {RESUME_SECONDS:g} s of the failover"
    run.guarantee(text, resumed and seconds <= RESUME_SECONDS, f"{seconds:.1f} s", timed=True)


@asynccontextmanager
async def _leader_killed(run: Run) -> AsyncIterator[None]:
    cluster: Cluster = run.target.control
    async with _killed(run, await cluster.with_role("leader")):
        yield


@asynccontextmanager
async def _killed(run: Run, leader: Node) -> AsyncIterator[None]:
    """Kill a leader, wait for the failover, and start its node again at the end of the context."""
    cluster: Cluster = run.target.control
    run.began = time.monotonic()
    await cluster.kill_node(leader)
    try:
        await _promoted(run, leader)
        yield
    finally:
        await cluster.start_node(leader)


@asynccontextmanager
async def _leader_frozen(run: Run) -> AsyncIterator[None]:
    cluster: Cluster = run.target.control
    leader = await cluster.with_role("leader")
    run.began = time.monotonic()
    processes = leader.processes()
    _signal(processes, signal.SIGSTOP)
    try:
        await _promoted(run, leader)
        yield
    finally:
        _signal(processes, signal.SIGCONT)


@asynccontextmanager
async def _switched_over(run: Run) -> AsyncIterator[None]:
    cluster: Cluster = run.target.control
    leader = await cluster.with_role("leader")
    await cluster.switch_over(leader)
    await _writes(run, time.monotonic())
    yield


@asynccontextmanager
async def _switched_over_with_standbys(run: Run) -> AsyncIterator[None]:
    cluster: Cluster = run.target.control
    await _standbys_answer(run, "before the switchover")
    async with _switched_over(run):
        await cluster.settled()
        await cluster.checkpoint()
        await _standbys_answer(run, "after the switchover")
        yield


async def _standbys_answer(run: Run, when: str) -> None:
    before = await run.target.standby_reads()

    async def answered() -> bool:
        return await run.target.standby_reads() > before

    run.guarantee(f"standbys answer reads {when}", await run.until(answered))


@asynccontextmanager
async def _standby_killed(run: Run) -> AsyncIterator[None]:
    cluster: Cluster = run.target.control
    standby = await cluster.with_role("sync_standby")
    await cluster.kill_node(standby)
    try:
        await _writes(run, time.monotonic())
        yield
    finally:
        await cluster.start_node(standby)


@asynccontextmanager
async def _leader_killed_before_it_has_sent(run: Run) -> AsyncIterator[None]:
    """Kill a leader that acknowledges writes without a standby, and sends them to none."""
    cluster: Cluster = run.target.control
    await cluster.set_synchronous(synchronous=False)
    leader = await cluster.with_role("leader")
    # Only open sessions go on: the first process would start another sender.
    server = next(process for process in leader.processes() if process.name() == "postgres")
    senders = [process for process in server.children() if "walsender" in "".join(process.cmdline())]
    _signal([server, *senders], signal.SIGSTOP)
    ledger = run.work.ledger
    # More than were in progress, which may have been sent.
    wanted = len(ledger.ids) + 2 * WORKERS
    await run.until(lambda: len(ledger.ids) >= wanted)
    try:
        async with _killed(run, leader):
            yield
    finally:
        await cluster.set_synchronous(synchronous=True)


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


FAULTS = (
    Fault(
        "leader-killed",
        "the machine of the leader is lost: all its processes are killed (SIGKILL), later started again",
        _leader_killed,
        target=on_cluster,
        codes=TIMES_OUT,
        reasons=_REASONS,
        not_serving_within=3.0,
    ),
    Fault(
        "leader-frozen",
        "the machine of the leader does not respond (SIGSTOP), and returns after another node has taken over",
        _leader_frozen,
        target=on_cluster,
        quick=False,
        codes=TIMES_OUT,
        reasons=_REASONS,
        not_serving_within=3.0,
    ),
    Fault(
        "leader-switched",
        "an operator makes another node the leader",
        _switched_over,
        target=on_cluster,
        codes=TIMES_OUT,
        reasons=_REASONS,
        stops=True,
    ),
    Fault(
        "leader-switched-with-standbys",
        "the same, while standbys answer the reads of callers that send the tokens of their writes",
        _switched_over_with_standbys,
        target=with_standbys,
        quick=False,
        codes=TIMES_OUT,
        reasons=_REASONS,
        stops=True,
    ),
    Fault(
        "standby-killed",
        "the machine of the synchronous standby is lost",
        _standby_killed,
        target=on_cluster,
        quick=False,
        codes=TIMES_OUT,
        affected=frozenset({"create_user"}),
        reasons=_REASONS,
        stops=True,
    ),
)

LOSES_WRITES = Fault(
    "leader-killed-asynchronous",
    "the machine of the leader is lost, and with it writes that no standby has received",
    _leader_killed_before_it_has_sent,
    target=on_cluster,
    codes=TIMES_OUT,
    reasons=_REASONS,
    stops=True,
)
