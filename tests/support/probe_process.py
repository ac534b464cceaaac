"""The probe service in a process of its own, to send signals to.

A request whose value is the path of a file blocks: its handler creates `PATH.begun` and waits for the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatehouse.rpc import PolicyOptions, Server, ServerTelemetry
from gatehouse.runtime.logs import make_logger
from gatehouse.runtime.signals import StopSignals, run_until_signal
from gatehouse.settings import LogSettings, ServerSettings
from tests.support.eventually import eventually
from tests.support.rpc import PLAINTEXT, Probe, TableVerifier, principal

ROOT = Path(__file__).resolve().parents[2]


async def block(request: Any, _: object) -> None:
    """Wait for the file that a request names."""
    if request.value.startswith("/"):
        Path(request.value).with_suffix(".begun").touch()
        await eventually(Path(request.value).exists, seconds=600)


async def serve(port: int, *, reuse_port: bool, settings: dict[str, Any]) -> None:
    """Serve until a signal; `settings` are fields of ServerSettings."""
    probe, verifier = Probe(on_message=block), TableVerifier()
    verifier.answers["good"] = principal("use:probe")
    server = Server(
        [probe.service()],
        verifier=verifier,
        tls=PLAINTEXT,
        telemetry=ServerTelemetry(make_logger(LogSettings(format="json"), sys.stdout)),
        settings=ServerSettings(**settings),
        policy=PolicyOptions(default_scopes=["use:probe"]),
    )
    with StopSignals() as signals:
        await server.start(port, reuse_port=reuse_port)
        await run_until_signal([server], signals)


@dataclass
class ProbeProcess:
    """A running process, its port and its log lines."""

    process: asyncio.subprocess.Process
    port: int
    lines: list[dict[str, Any]]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    async def exit_code(self, seconds: float = 20.0) -> int:
        """Return the exit code when the process has ended."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@asynccontextmanager
async def probe_process(
    port: int = 0, *, reuse_port: bool = False, **settings: Any
) -> AsyncIterator[ProbeProcess]:
    """Start the process and wait until it listens; `settings` are fields of ServerSettings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.probe_process",
        json.dumps({"port": port, "reuse_port": reuse_port, "settings": settings}),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    lines: list[dict[str, Any]] = []
    listening = asyncio.Event()

    async def collect() -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            lines.append(json.loads(raw))
            listening.set()
        listening.set()

    collecting = asyncio.create_task(collect())
    try:
        async with asyncio.timeout(60):
            await listening.wait()
        assert lines, "the process ended before it listened"
        yield ProbeProcess(process, int(lines[0]["address"].rpartition(":")[2]), lines)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await collecting


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(**json.loads(sys.argv[1])))
