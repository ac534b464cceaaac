"""Ports and processes of the stack."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from gatehouse.app.services import SERVICES
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.processes import GatehouseProcess, exit_reason, stop_process
from gatehouse_testbed.stack_ports import Ports
from tests.support.child_coverage import measured


def test_free_ports_are_all_different() -> None:
    ports = Ports.free()
    ports.check()
    assert len({ports.issuer, ports.traces, *ports.services.values()}) == 2 + len(SERVICES)


def test_taken_port_is_named_with_its_part_of_the_stack() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TestbedError, match=f"port {port} of admin is taken"):
            dataclasses.replace(Ports.free(), services={"admin": port}).check()


async def test_process_that_exits_at_once_is_reported_with_its_last_line(tmp_path: Path) -> None:
    process = await GatehouseProcess.start("users", ["serve", "mice"], {}, tmp_path)
    with pytest.raises(TestbedError, match="users exited: mice: unknown service"):
        await process.ready()
    assert str(await process.exited()).startswith("users exited: mice: ")
    await process.stop()


async def test_settings_in_the_environment_do_not_reach_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEHOUSE_USERS__PORT", "nonsense")
    process = await GatehouseProcess.start("users", ["serve", "users"], {}, tmp_path)
    with pytest.raises(TestbedError, match="GATEHOUSE_ISSUERS"):
        await process.ready()
    assert "GATEHOUSE_USERS__PORT" in os.environ


async def test_process_that_ignores_sigterm_is_killed_when_its_owner_is_cancelled(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    script = "from signal import *; signal(SIGTERM, SIG_IGN); print('ready', flush=True); pause()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stop_process(process)
    assert process.returncode == -signal.SIGKILL
    assert exit_reason("users", process, log) == "users exited: SIGKILL"
    await stop_process(process)


async def test_process_that_is_cut_off_from_its_owner_ends(tmp_path: Path) -> None:
    """The pipe to it closes when the owner ends, however that happens."""
    process = await GatehouseProcess.start("issuer", ["issuer", "--port", "0"], measured({}), tmp_path)
    await process.ready()
    assert process.process.stdin is not None
    process.process.stdin.close()
    assert await process.process.wait() == 0
