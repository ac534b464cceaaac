"""Servers in processes of their own: start, pin to a core, wait until ready, read the CPU time."""

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
    """A measurement failed or is not valid; the message is one line with the reason."""


def cores() -> tuple[int, int] | None:
    """Return a core for the servers and one for everything else, or None if processes cannot be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else None


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin this thread, and processes that it starts, to `core` until the context ends; None does nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def unpinned() -> Iterator[None]:
    """Let this thread, and processes that it starts, use all cores until the context ends."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Process:
    """A running process.

    Attributes:
        name: Name for error messages.
        pid: Process id.
        log: File with its output.
        ready: Content of its ready file.
        started: Start time on the clock `time.perf_counter`, in seconds.
    """

    name: str
    pid: int
    log: Path
    ready: Mapping[str, Any]
    started: float

    def cpu_seconds(self) -> float:
        """Return the CPU time used by all its threads, and those of its workers, so far."""
        process = psutil.Process(self.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

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
    """Run `python ARGUMENTS --ready-file FILE` until the context ends.

    Args:
        name: Name for error messages and files.
        arguments: Arguments of `python`.
        folder: Folder for its files.
        environment: Environment variables to add to those of this process, of which GATEHOUSE_* and GRPC_*
            are removed.
        core: CPU core to pin it to, or None.

    Raises:
        BenchmarkError: It exited before it was ready, or with an error.
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
                raise BenchmarkError(f"{name}: did not start; last line of its output: {_last_line(log)}")
            await asyncio.sleep(0.002)
        yield Process(name, process.pid, log, json.loads(ready.read_bytes()), started)
    finally:
        code = await _stop(process)
    if code != 0:
        raise BenchmarkError(f"{name}: exited with {code}; last line of its output: {_last_line(log)}")


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, core: int | None
) -> subprocess.Popen[bytes]:
    # Not with asyncio: uvloop forks, and gRPC logs a warning at each fork.
    with log.open("wb") as output, pinned(core):
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


async def _stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return await asyncio.to_thread(process.wait, STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return await asyncio.to_thread(process.wait)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "(none)"


async def seconds_to_serving(process: Process, port: int) -> float:
    """Return the seconds from the start of a process until its health is SERVING."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=START_SECONDS):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return time.perf_counter() - process.started
    raise BenchmarkError(f"{process.name}: its health did not become SERVING")
