"""Servers as processes of their own: started on a core, waited for, and their CPU time read."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class BenchmarkError(Exception):
    """A measurement cannot be made, or cannot be believed; one line says why."""


def cores() -> tuple[int, int] | None:
    """Returns a core for the servers and one for all else; None where processes cannot be held to cores."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else None


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Holds this thread, and the processes that it starts meanwhile, to one core; None changes nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs.

    Attributes:
        name: What it is called in errors.
        pid: Its process id.
        log: Where its output goes.
        ready: What it wrote once it was ready.
        started: When it was started, on `time.perf_counter`.
    """

    name: str
    pid: int
    log: Path
    ready: Mapping[str, Any]
    started: float

    def cpu_seconds(self) -> float:
        """Returns the CPU time that it has used, all its threads together."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Return the size of its resident memory."""
        return int(psutil.Process(self.pid).memory_info().rss)


@asynccontextmanager
async def run_process(
    name: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
) -> AsyncIterator[Process]:
    """Runs `python ARGUMENTS --ready-file FILE` until the context ends.

    Args:
        name: What it is called; also the name of its files.
        arguments: What stands after `python`.
        folder: Where its files go.
        environment: Added to the environment, from which those of Gatehouse and gRPC are taken out.
        core: The core it is held to.

    Raises:
        BenchmarkError: It ended before it was ready, or did not end well.
    """
    log, ready = folder / f"{name}.log", folder / f"{name}.json"
    ready.unlink(missing_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GATEHOUSE_", "GRPC_"))}
    started = time.perf_counter()
    process = _start(
        [sys.executable, *arguments, "--ready-file", str(ready)],
        inherited | dict(environment or {}),
        log,
        core,
    )
    try:
        while not ready.exists():
            if process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise BenchmarkError(f"{name}: did not start; its output ends: {_end_of(log)}")
            await asyncio.sleep(0.002)
        yield Process(name, process.pid, log, json.loads(ready.read_bytes()), started)
    finally:
        code = await _stop(process)
    if code != 0:
        raise BenchmarkError(f"{name}: ended with {code}; its output ends: {_end_of(log)}")


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, core: int | None
) -> subprocess.Popen[bytes]:
    # Not by asyncio: uvloop forks, and a process that serves gRPC warns at each fork.
    with log.open("wb") as output, pinned(core):
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


async def _stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return await asyncio.to_thread(process.wait, STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return await asyncio.to_thread(process.wait)


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "nothing"


async def seconds_to_serving(process: Process, port: int) -> float:
    """Returns the seconds from the start of a process until its health is SERVING."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=START_SECONDS):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return time.perf_counter() - process.started
    raise BenchmarkError(f"{process.name}: its health did not become SERVING")
