"""An embedded PostgreSQL on a Unix socket, where every role, its owner too, must show a password."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatehouse.demo.errors import DemoError
from gatehouse.demo.postgres_process import embedded_environment
from gatehouse.demo.processes import end, last_line, outside_environment

ORDER_SECONDS = 30.0
START_SECONDS = 60.0


class Postgres:
    """A PostgreSQL in a process of its own, see postgres_process.

    Args:
        process: The process.
        log: Where what goes wrong is written.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._urls: Mapping[str, str] = {}
        self.version = ""

    @classmethod
    async def launch(cls, folder: Path, log: Path) -> Postgres:
        """Starts the process, and does not wait for it.

        Args:
            folder: Where its data goes; its path must not be longer than some 90 characters.
            log: Where what goes wrong is written.
        """
        runtime = folder.with_name(f"{folder.name}-run")
        runtime.mkdir(mode=0o700)
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gatehouse.demo.postgres_process",
                str(folder),
                # The library's lock and sockets, which are this one's and nobody else's.
                env=embedded_environment(outside_environment()) | {"XDG_RUNTIME_DIR": str(runtime)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )
        return cls(process, log)

    async def prepare(self) -> None:
        """Waits until it runs, with its database, and lets nobody in without a password.

        Raises:
            DemoError: It does not start.
        """
        line = await self._line(START_SECONDS)
        if not line:
            await self.aclose()
            raise DemoError(f"the embedded PostgreSQL did not start: {last_line(self._log)}")
        found = json.loads(line)
        self.version, self._urls = found["version"], found["urls"]

    async def migrate(self) -> list[str]:
        """Brings the database to the newest version, and gives each login role its password."""
        names: list[str] = await self._order("migrate")
        return names

    def urls(self) -> Mapping[str, str]:
        """Returns the address for each service, the password of its login role in it."""
        return self._urls

    async def stop(self) -> None:
        """Stops it; its data stays."""
        await self._order("stop")

    async def start(self) -> None:
        """Starts it again after `stop`."""
        await self._order("start")

    async def _order(self, order: str) -> Any:
        writer = self._process.stdin
        assert writer is not None  # noqa: S101 - it was started with pipes
        writer.write(f"{order}\n".encode())
        await writer.drain()
        line = await self._line(ORDER_SECONDS)
        if not line:
            raise DemoError(f"the embedded PostgreSQL did not {order}: {last_line(self._log)}")
        return json.loads(line)

    async def _line(self, seconds: float) -> str:
        """Returns the next line of the process; "" when it has ended, or says nothing in time."""
        reader = self._process.stdout
        assert reader is not None  # noqa: S101 - it was started with pipes
        try:
            async with asyncio.timeout(seconds):
                return (await reader.readline()).decode().strip()
        except TimeoutError:
            return ""

    async def aclose(self) -> None:
        """Stops it for good."""
        assert self._process.stdin is not None  # noqa: S101 - it was started with pipes
        self._process.stdin.close()
        await end(self._process, asks=False)
