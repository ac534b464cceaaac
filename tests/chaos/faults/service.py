"""Faults of the service processes, and of what they write to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil

from gatehouse_testbed.processes import GatehouseProcess
from tests.chaos.environment import Environment, Target
from tests.chaos.model import UNAVAILABLE, Fault, Run

DRAIN_SECONDS = 5.0
FLUSH_SECONDS = 2.0
_ROUNDS = 4
# A channel waits up to 2 s before it connects again.
REACHED_SECONDS = 5.0
_NO_USERS = "UNAVAILABLE USER_SERVICE_UNAVAILABLE"
_EXPORT = "Failed to export"


@asynccontextmanager
async def _two(environment: Environment) -> AsyncIterator[Target]:
    async with environment.replicas(count=2) as target:
        yield target


@asynccontextmanager
async def _killed(run: Run) -> AsyncIterator[None]:
    port, process = run.target.port, run.target.process
    process.process.kill()
    await process.process.wait()
    yield
    await start_again(run, port)


async def start_again(run: Run, port: int, *arguments: str) -> None:
    """Start a process again and wait until the load has found it."""
    _, process = await run.environment.start(*arguments, port=port)
    run.target.processes[port] = process
    methods = (b"UserService/CreateUser", b"UserService/ListUsers")
    await run.until(lambda: all(method in process.log.read_bytes() for method in methods))


async def stop_in_time(run: Run, process: GatehouseProcess) -> None:
    """Send SIGTERM; the process must exit with 0, in time."""
    began = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    ended = await run.until(lambda: process.process.returncode is not None)
    seconds, code = time.monotonic() - began, process.process.returncode
    held = ended and code == 0 and seconds <= DRAIN_SECONDS + 2
    run.guarantee(
        f"it exits with 0 within {DRAIN_SECONDS + 2:g} s of SIGTERM", held, f"{code}, {seconds:.1f} s"
    )


@asynccontextmanager
async def _terminated(run: Run) -> AsyncIterator[None]:
    ports = list(run.target.processes)
    for number in range(_ROUNDS):
        port = ports[number % 2]
        await stop_in_time(run, run.target.processes[port])
        await start_again(run, port)
    yield


@asynccontextmanager
async def _with_workers(environment: Environment) -> AsyncIterator[Target]:
    async with environment.replicas("--workers", "2") as workers, environment.replicas() as single:
        yield Target(workers.processes | single.processes)


@asynccontextmanager
async def _workers_terminated(run: Run) -> AsyncIterator[None]:
    port = run.target.port
    await stop_in_time(run, run.target.process)
    await start_again(run, port, "--workers", "2")
    yield


@asynccontextmanager
async def _worker_killed(run: Run) -> AsyncIterator[None]:
    port, process = run.target.port, run.target.process
    psutil.Process(process.process.pid).children()[0].kill()
    stopped = await run.until(lambda: process.process.returncode is not None)
    code = process.process.returncode
    run.guarantee("all workers stop with code 1, so that they are started again", stopped and code == 1, code)
    yield
    await start_again(run, port, "--workers", "2")


# <part admin>
@asynccontextmanager
async def _called_service_down(run: Run) -> AsyncIterator[None]:
    """Stop the UserService that AdminService calls."""
    environment = run.environment
    users = environment.stack.processes["users"]
    await users.stop()
    try:
        answer = await environment.get_stats()
        run.guarantee("AdminService says which service it misses", answer == _NO_USERS, answer)
        yield
    finally:
        await environment.stack.restart("users")

    async def answered() -> bool:
        return await environment.get_stats() == "OK"

    recovers = await run.until(answered, REACHED_SECONDS)
    run.guarantee(f"AdminService answers within {REACHED_SECONDS:g} s", recovers, timed=True)


# </part admin>


@asynccontextmanager
async def _collector_down(environment: Environment) -> AsyncIterator[Target]:
    async with environment.replicas(
        count=2, GATEHOUSE_TELEMETRY__OTLP_ENDPOINT="http://127.0.0.1:9"
    ) as target:
        yield target


@asynccontextmanager
async def _collector_hanging(environment: Environment) -> AsyncIterator[Target]:
    """Export spans to a server that accepts connections and never answers."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while await reader.read(65_536):
            pass

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with environment.replicas(count=2, GATEHOUSE_TELEMETRY__OTLP_ENDPOINT=endpoint) as target:
            yield target
    finally:
        for connection in connections:
            connection.close()
        server.close()


@asynccontextmanager
async def _terminate_one(run: Run) -> AsyncIterator[None]:
    await run.calls()
    await stop_in_time(run, run.target.process)
    yield


@asynccontextmanager
async def _full_pipe(environment: Environment) -> AsyncIterator[Target]:
    """Write the log to a pipe that nobody reads, and that is full."""
    reader, writer = os.pipe()
    async with AsyncExitStack() as exits:
        exits.callback(os.close, reader)
        target = await exits.enter_async_context(
            environment.replicas(count=2, output=writer, GATEHOUSE_LOG__LEVEL="debug")
        )
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b" " * 4096)
        except BlockingIOError:
            os.set_blocking(writer, True)
            os.close(writer)
        yield target


FAULTS = (
    Fault(
        "service-killed",
        "one of two replicas is killed (SIGKILL) and started again",
        _killed,
        target=_two,
        codes=UNAVAILABLE,
        affected=frozenset({"get_user", "list_users", "count_users"}),
        stops=True,
    ),
    Fault(
        "service-terminated",
        f"one of two replicas is stopped (SIGTERM) and started again, {_ROUNDS} times in turn",
        _terminated,
        target=_two,
        stops=True,
        retries=True,
    ),
    Fault(
        "workers-terminated",
        "a replica with two workers is stopped (SIGTERM) and started again",
        _workers_terminated,
        target=_with_workers,
        stops=True,
        retries=True,
    ),
    Fault(
        "worker-killed",
        "one of two workers of a replica is killed (SIGKILL)",
        _worker_killed,
        target=_with_workers,
        codes=UNAVAILABLE,
        affected=frozenset({"get_user", "list_users", "count_users"}),
        stops=True,
    ),
    # <part admin>
    Fault(
        "called-service-down",
        "UserService is stopped and started again below AdminService; other replicas are not affected",
        _called_service_down,
    ),
    # </part admin>
    Fault(
        "collector-down",
        "the collector of spans refuses connections, then a replica is stopped",
        _terminate_one,
        target=_collector_down,
        logs=_EXPORT,
        stops=True,
        retries=True,
    ),
    Fault(
        "collector-hangs",
        "the collector of spans accepts connections and does not answer, then a replica is stopped",
        _terminate_one,
        target=_collector_hanging,
        logs=_EXPORT,
        stops=True,
        retries=True,
    ),
    Fault(
        "log-reader-hangs",
        "nobody reads standard output and its pipe is full, then a replica is stopped",
        _terminate_one,
        target=_full_pipe,
        stops=True,
        retries=True,
    ),
)
