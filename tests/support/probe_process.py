"""The probe service as a process of its own, to be sent signals.

A request whose value is the path of a file is held: its handler writes `PATH.begun` and waits for the file.
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

from gatehouse.rpc import Server, ServerLimits, ServerTls
from gatehouse.runtime.logs import make_logger
from gatehouse.runtime.signals import StopSignals, run_until_signal
from gatehouse.settings import LogSettings
from tests.support.rpc import Probe, TableVerifier, eventually, principal

ROOT = Path(__file__).resolve().parents[2]


async def hold(request: Any, _: object) -> None:
    """Waits for the file that a request names."""
    if request.value.startswith("/"):
        Path(request.value).with_suffix(".begun").touch()
        await eventually(Path(request.value).exists, seconds=600)


async def serve(settings: dict[str, Any]) -> None:
    """Serves until a signal."""
    probe, verifier = Probe(on_message=hold), TableVerifier()
    verifier.answers["good"] = principal("use:probe")
    limits = ServerLimits(**settings.pop("limits", {}))
    server = Server(
        [probe.service()],
        verifier=verifier,
        tls=ServerTls(plaintext=True),
        logger=make_logger(LogSettings(format="json"), sys.stdout),
        limits=limits,
        default_scopes=["use:probe"],
        **settings,
    )
    with StopSignals() as signals:
        await server.start()
        await run_until_signal([server], signals)


@dataclass
class ProbeProcess:
    """A running process of the probe."""

    process: asyncio.subprocess.Process
    port: int
    lines: list[dict[str, Any]]

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Sends SIGINT, as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    async def exit_code(self, seconds: float = 20.0) -> int:
        """Waits until the process has ended."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@asynccontextmanager
async def probe_process(**settings: Any) -> AsyncIterator[ProbeProcess]:
    """Starts the probe as a process and waits until it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.probe_process",
        json.dumps(settings),
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

    uvloop.run(serve(json.loads(sys.argv[1])))
