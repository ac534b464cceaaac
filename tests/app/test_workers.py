"""`gatehouse serve --workers`: readiness, signals, and the end of a worker."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from tests.support.child_coverage import measured
from tests.support.eventually import eventually
from tests.support.gatehouse_process import PATIENCE_SECONDS, run_gatehouse

# After it, the SDK no longer waits for a collector.
SDK_SHUTDOWN_SECONDS = 30.0


def read_json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


async def test_ready_file_has_the_ports_of_all_workers_and_they_stop_at_sigterm(
    tmp_path: Path,
) -> None:
    ready_file = tmp_path / "ready.json"
    command = ("serve", "users", "--workers", "2", "--ready-file", str(ready_file))
    environment = measured({"GATEHOUSE_TELEMETRY__METRICS_PORT": "0"})
    async with run_gatehouse(*command, **environment) as workers:
        await eventually(ready_file.exists, PATIENCE_SECONDS)
        ready = read_json(ready_file)
        addresses = {line["address"] for line in await workers.until("listening", 2)}
        workers.process.terminate()
        await workers.until("stopped", 2)
        assert await workers.exit_code() == 0

    assert addresses == {f"127.0.0.1:{ready['users']}"}
    assert len(set(ready["metrics"])) == 2


async def test_end_of_a_worker_stops_the_others() -> None:
    async with run_gatehouse("serve", "users", "--workers", "2", **measured({})) as workers:
        (line,) = await workers.until("workers")
        await workers.until("listening", 2)
        os.kill(line["pids"][0], signal.SIGKILL)
        await workers.until("stopped")
        assert await workers.exit_code() == 1


async def test_workers_write_no_file_finish_their_calls_and_stop_when_their_parent_is_killed() -> None:
    def forbid_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    async with run_gatehouse("serve", "users", "--workers", "2", preexec=forbid_files) as workers:
        (address, *_) = {line["address"] for line in await workers.until("listening", 2)}
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="liveness"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            workers.process.kill()
            assert await watch.code() is grpc.StatusCode.OK  # a call that is cut off is UNAVAILABLE
        await workers.until("stopped", 2)
        # All processes that write to its output have ended.
        assert await workers.exit_code() == -signal.SIGKILL


async def test_signal_to_all_processes_is_one_signal_and_the_second_stops_at_once() -> None:
    """As systemd sends it, while the parent forwards its own."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = {
            "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true",
            "GATEHOUSE_SERVER__DRAIN_SECONDS": "600",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
        }
        async with run_gatehouse("serve", "users", "--workers", "2", **settings) as workers:
            (address, *_) = {line["address"] for line in await workers.until("listening", 2)}
            async with grpc.aio.insecure_channel(address) as channel:
                users: Any = users_pb2_grpc.UserServiceStub(channel)
                await users.CountUsers(users_pb2.CountUsersRequest(), timeout=PATIENCE_SECONDS).code()
            (line,) = await workers.until("workers")
            for pid in line["pids"]:
                os.kill(pid, signal.SIGTERM)
            await workers.until("stopped", 2)  # one of them still waits for the collector
            workers.process.send_signal(signal.SIGINT)
            with pytest.raises(TimeoutError):  # a worker that stops at once would have ended
                async with asyncio.timeout(2):
                    await workers.until("any line, or the end of all workers")
            workers.process.terminate()
            async with asyncio.timeout(SDK_SHUTDOWN_SECONDS - 5):
                await workers.exit_code()
