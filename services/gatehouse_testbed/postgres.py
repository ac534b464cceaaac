"""An embedded PostgreSQL on loopback; every role, also the owner, needs a password."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from gatehouse.settings import environment
from gatehouse_testbed.environments import child_environment
from gatehouse_testbed.errors import TestbedError, last_line
from gatehouse_testbed.processes import exit_reason, stop_process
from gatehouse_testbed.run_folder import end_processes

COMMAND_SECONDS = 30.0
START_SECONDS = 60.0


def port_of(url: str) -> int:
    """Return the port of a database URL of this server."""
    port = urlsplit(url).port
    assert port is not None  # noqa: S101 - its URLs have one
    return port


def with_port(url: str, port: int) -> str:
    """Return a database URL of this server with another port."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


class Postgres:
    """A PostgreSQL server in a separate process, see postgres_process.

    Args:
        process: The process.
        folder: Its data.
        log: Its output.
    """

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, log: Path) -> None:
        self._process = process
        self.folder = folder
        self._log = log
        self._urls: Mapping[str, str] = {}
        self.owner_url = self.version = ""

    @classmethod
    async def launch(cls, folder: Path, log: Path) -> Postgres:
        """Start the process, without waiting until PostgreSQL runs.

        Args:
            folder: For its data.
            log: For its output.
        """
        return cls(await cls._spawn(folder, log), folder, log)

    async def restart(self) -> None:
        """Start a process that has exited again, with the same data, port and passwords.

        Raises:
            TestbedError: It does not start.
        """
        await self.aclose()
        self._process = await self._spawn(self.folder, self._log)
        await self.prepare()

    @staticmethod
    async def _spawn(folder: Path, log: Path) -> asyncio.subprocess.Process:
        with log.open("wb") as stream:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gatehouse_testbed.postgres_process", str(folder)),
                env=child_environment(environment()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )

    async def prepare(self) -> None:
        """Wait until PostgreSQL runs with its database and requires passwords.

        Raises:
            TestbedError: It does not start.
        """
        line = await self._read_line(START_SECONDS)
        if not line:
            await self.aclose()
            raise TestbedError(f"postgres did not start: {last_line(self._log)}")
        answer = json.loads(line)
        self.version, self.owner_url, self._urls = answer["version"], answer["owner"], answer["urls"]

    @property
    def pid(self) -> int:
        """Process id of the process; PostgreSQL is its child."""
        return self._process.pid

    async def migrate(self) -> list[str]:
        """Run the migrations of all services and set the password of each login role."""
        applied: list[str] = await self._command("migrate")
        return applied

    def urls(self) -> Mapping[str, str]:
        """Return the database URL of each service, with the password of its login role."""
        return self._urls

    async def stop(self) -> None:
        """Stop PostgreSQL; its data stays."""
        await self._command("stop")

    async def start(self) -> None:
        """Start PostgreSQL again, after `stop` or after it was killed.

        Raises:
            TestbedError: It does not start.
        """
        try:
            await self._command("start")
        except (TestbedError, ConnectionError):
            await self.restart()

    async def _command(self, command: str) -> Any:
        writer = self._process.stdin
        assert writer is not None  # noqa: S101 - the process was started with pipes
        writer.write(f"{command}\n".encode())
        await writer.drain()
        line = await self._read_line(COMMAND_SECONDS)
        if not line:
            raise TestbedError(f"postgres did not {command}: {last_line(self._log)}")
        return json.loads(line)

    async def _read_line(self, seconds: float) -> str:
        """Return the next line of the process; "" after `seconds` or at its end."""
        reader = self._process.stdout
        assert reader is not None  # noqa: S101 - the process was started with pipes
        try:
            async with asyncio.timeout(seconds):
                return (await reader.readline()).decode().strip()
        except TimeoutError:
            return ""

    async def exited(self) -> TestbedError:
        """Wait until PostgreSQL exits unexpectedly; return an error with the reason."""
        await self._process.wait()
        return TestbedError(exit_reason("postgres", self._process, self._log))

    async def aclose(self) -> None:
        """Stop PostgreSQL and its process."""
        assert self._process.stdin is not None  # noqa: S101 - the process was started with pipes
        self._process.stdin.close()
        await stop_process(self._process, terminate=False)
        # If the process was killed, its server may have survived.
        await asyncio.to_thread(end_processes, self.folder)
