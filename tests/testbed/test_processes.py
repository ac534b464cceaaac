"""Ports and processes of the stack."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from gatehouse.app.services import SERVICES
from gatehouse_testbed.errors import TestbedError
from gatehouse_testbed.ports import Ports
from gatehouse_testbed.processes import GatehouseProcess


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
