"""Three replicas of UserService behind Envoy: what replacing or losing one costs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.environment import Environment, Target, open_environment
from tests.chaos.faults.service import start_again, stop_in_time
from tests.chaos.model import UNAVAILABLE, Fault, Run
from tests.chaos.report import line
from tests.chaos.run import try_fault
from tests.chaos.workload import WORKERS
from tests.ha.balancer import run_balancer

REPLICAS = 3
# More than the interval of Envoy's health checks.
STOP_DELAY_SECONDS = "2"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def environment() -> AsyncIterator[Environment]:
    """The system."""
    async with open_environment(lambda _: None) as running:
        yield running


@asynccontextmanager
async def balanced(environment: Environment) -> AsyncIterator[Target]:
    """Run three replicas of UserService, which callers reach through Envoy."""
    settings = {"GATEHOUSE_SERVER__STOP_DELAY_SECONDS": STOP_DELAY_SECONDS}
    async with environment.replicas(count=REPLICAS, **settings) as target, AsyncExitStack() as exits:
        folder = _tls_folder(environment)
        target.entry = await exits.enter_async_context(run_balancer(list(target.processes), folder))
        yield target


def _tls_folder(environment: Environment) -> Path:
    """Return a folder with the certificate of the services, under the names of the configuration."""
    settings = environment.settings()
    folder = environment.stack.folder / "balancer"
    folder.mkdir(exist_ok=True)
    for name, setting in (("tls.crt", "CERTIFICATE"), ("tls.key", "PRIVATE_KEY"), ("ca.crt", "CA")):
        (folder / name).write_bytes(Path(settings[f"GATEHOUSE_TLS__{setting}_FILE"]).read_bytes())
    return folder


@asynccontextmanager
async def replaced(run: Run) -> AsyncIterator[None]:
    """Stop each replica and start it again, one after the other."""
    for port, process in list(run.target.processes.items()):
        await stop_in_time(run, process)
        await start_again(run, port)
    yield


@asynccontextmanager
async def killed(run: Run) -> AsyncIterator[None]:
    port, process = run.target.port, run.target.process
    process.process.kill()
    await process.process.wait()
    await run.calls()
    in_flight = len(run.work.load.names) * WORKERS
    kinds = Counter(outcome.details for outcome in run.failures)
    held = kinds.total() <= in_flight
    run.guarantee(f"only calls in flight fail, at most {in_flight}", held, dict(kinds))
    yield
    await start_again(run, port)


FAULTS = (
    Fault("replicas-replaced", "each replica is stopped and started again", replaced, balanced, stops=True),
    Fault("replica-killed", "a replica is killed", killed, balanced, codes=UNAVAILABLE, stops=True),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_balancer_holds_all_guarantees(environment: Environment, fault: Fault) -> None:
    row = await try_fault(environment, fault)
    sys.stdout.write(f"{line(row)}\n")
    assert row.held, line(row)
