"""Processes that run `gatehouse`, each with a log file and a ready file."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatehouse.settings import environment
from gatehouse_testbed.environments import child_environment
from gatehouse_testbed.errors import TestbedError, last_line

READY_SECONDS = 60.0
STOP_SECONDS = 8.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class GatehouseProcess:
    """A process that runs `gatehouse`.

    Attributes:
        name: Names its files and the process in errors.
        process: The process.
        arguments: Its command and arguments.
        settings: Its environment variables, in addition to `child_environment`.
        log: Its output.
        ready_file: Written by the process when it is ready.
    """

    name: str
    process: asyncio.subprocess.Process
    arguments: Sequence[str]
    settings: Mapping[str, str] = field(repr=False)
    log: Path
    ready_file: Path

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        settings: Mapping[str, str],
        folder: Path,
        *,
        output: int | None = None,
    ) -> GatehouseProcess:
        """Start `gatehouse ARGUMENTS --ready-file FILE`.

        Args:
            name: Names its files and the process in errors.
            arguments: Command and arguments.
            settings: Environment variables, in addition to `child_environment`.
            folder: Where its files are written.
            output: File descriptor of its standard output; its log if None.
        """
        log, ready_file = folder / f"{name}.log", folder / f"{name}.json"
        ready_file.unlink(missing_ok=True)
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "gatehouse_testbed.child",
                    *arguments,
                    "--ready-file",
                    str(ready_file),
                ),
                env=child_environment(environment()) | dict(settings),
                stdin=asyncio.subprocess.PIPE,
                stdout=stream if output is None else output,
                stderr=stream,
                # Ctrl-C reaches only the parent, which stops the processes in the right order.
                start_new_session=True,
            )
        return cls(name, process, arguments, settings, log, ready_file)

    async def ready(self) -> dict[str, Any]:
        """Wait for the ready file and return its content.

        Raises:
            TestbedError: The process exited, or was not ready within READY_SECONDS.
        """
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not self.ready_file.exists():
                    if self.process.returncode is not None:
                        raise self._exited()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise TestbedError(
                f"{self.name}: not ready within {READY_SECONDS:g} s: {last_line(self.log)}"
            ) from None
        content: dict[str, Any] = json.loads(self.ready_file.read_bytes())
        return content

    async def restart(self) -> GatehouseProcess:
        """Start a process that has exited again, with the same ports."""
        settings = dict(self.settings)
        if metrics := (await self.ready()).get("metrics"):
            settings["GATEHOUSE_TELEMETRY__METRICS_PORT"] = str(metrics)
        return await self.start(self.name, self.arguments, settings, self.log.parent)

    async def exited(self) -> TestbedError:
        """Wait until the process exits; return an error with the reason."""
        await self.process.wait()
        return self._exited()

    def _exited(self) -> TestbedError:
        return TestbedError(exit_reason(self.name, self.process, self.log))

    async def stop(self) -> None:
        """See stop_process."""
        await stop_process(self.process)


async def stop_process(process: asyncio.subprocess.Process, *, terminate: bool = True) -> None:
    """Stop a process: SIGTERM, and SIGKILL if it does not exit within STOP_SECONDS.

    Args:
        process: The process.
        terminate: Whether to send SIGTERM; False if the process exits for another reason.
    """
    if process.returncode is not None:
        return
    if terminate:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        # After the timeout, and also if the caller is cancelled.
        if process.returncode is None:
            process.kill()
            await process.wait()


def exit_reason(name: str, process: asyncio.subprocess.Process, log: Path) -> str:
    """Return why a process exited: the signal that ended it, or the last line that it has written."""
    code = process.returncode or 0
    return f"{name} exited: {signal.Signals(-code).name if code < 0 else last_line(log)}"
