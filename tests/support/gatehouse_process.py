"""`gatehouse` as a process that logs JSON lines, without a database and an issuer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

ISSUER: dict[str, Any] = {"issuer": "https://issuer.test", "audience": "api", "mode": "jwt"}
SETTINGS = {
    "GATEHOUSE_ISSUERS": json.dumps([ISSUER]),
    # <part admin>
    "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "admin",
    "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": "canary",
    "GATEHOUSE_ADMIN__DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "GATEHOUSE_ADMIN__PORT": "0",
    # </part admin>
    "GATEHOUSE_USERS__DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "GATEHOUSE_USERS__PORT": "0",
    "GATEHOUSE_TLS__PLAINTEXT": "true",
    "GATEHOUSE_LOG__FORMAT": "json",
}
PATIENCE_SECONDS = 120.0


class GatehouseProcess:
    """A running `gatehouse` process.

    Args:
        process: The process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Read log lines until `count` lines have this event, and return these."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(found := [line for line in self.lines if line["event"] == event]) < count:
                line = await self.process.stdout.readline()
                assert line, self.lines
                self.lines.append(json.loads(line))
        return found

    async def exit_code(self) -> int:
        """Wait for the end of the process."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def run_gatehouse(
    *arguments: str, preexec: Callable[[], None] | None = None, **settings: str
) -> AsyncIterator[GatehouseProcess]:
    """Run `gatehouse ARGUMENTS` until the context ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEHOUSE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gatehouse",
        *arguments,
        env=inherited | SETTINGS | settings,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=preexec,
    )
    running = GatehouseProcess(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
        await running.exit_code()
