"""Processes of the demo: each `gatehouse ARGUMENTS`, with a log, a ready file, and an end that is certain."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatehouse.demo.errors import DemoError
from gatehouse.settings import environment

READY_SECONDS = 60.0
STOP_SECONDS = 8.0
_POLL_SECONDS = 0.01


def outside_environment() -> dict[str, str]:
    """Returns the environment without settings of Gatehouse and of libpq, which are for other systems."""
    return {name: value for name, value in environment().items() if not name.startswith(("GATEHOUSE_", "PG"))}


@dataclass(frozen=True, slots=True)
class _Started:
    process: asyncio.subprocess.Process
    log: Path
    ready_file: Path


class Processes:
    """Starts processes, and ends those that it has started.

    Args:
        folder: Where logs and ready files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, _Started] = {}

    async def start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        """Starts `gatehouse ARGUMENTS --ready-file ...`.

        Args:
            name: Names its files, and it in errors.
            arguments: What stands after `gatehouse`.
            environment: Added to that of this process, which gives none of its own settings.
        """
        log, ready_file = self._folder / f"{name}.log", self._folder / f"{name}.json"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gatehouse",
                *arguments,
                "--ready-file",
                str(ready_file),
                env=outside_environment() | dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                # Ctrl-C goes to whoever started the demo, who then ends these in the right order.
                start_new_session=True,
            )
        self._started[name] = _Started(process, log, ready_file)

    async def ready(self, name: str) -> dict[str, Any]:
        """Waits for the ready file of a process and returns what it holds.

        Raises:
            DemoError: The process ended, or was not ready in time.
        """
        started = self._started[name]
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not started.ready_file.exists():
                    if started.process.returncode is not None:
                        raise DemoError(f"{name} ended at once: {last_line(started.log)}")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise DemoError(
                f"{name} was not ready within {READY_SECONDS:g} s: {last_line(started.log)}"
            ) from None
        found: dict[str, Any] = json.loads(started.ready_file.read_bytes())
        return found

    async def first_end(self) -> str:
        """Waits until a process ends, which none should, and says which and why."""
        waits = {
            asyncio.ensure_future(started.process.wait()): name for name, started in self._started.items()
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        name = waits[done.pop()]
        return f"{name} ended: {last_line(self._started[name].log)}"

    async def aclose(self) -> None:
        """Ends all of them, in order where they listen to it, at once where they do not."""
        await asyncio.gather(*(end(started.process) for started in self._started.values()))


async def end(process: asyncio.subprocess.Process, *, asks: bool = True) -> None:
    """Ends a process: asks it to, waits a while, and then makes it.

    Args:
        process: The process.
        asks: Whether to ask with SIGTERM; one that has been told in another way is only waited for.
    """
    if process.returncode is not None:
        return
    if asks:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        # Also when somebody does not want to wait.
        if process.returncode is None:
            process.kill()
            await process.wait()


def last_line(log: Path) -> str:
    """Returns the last line that a process has written."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("gatehouse: ") if lines else "it said nothing"
