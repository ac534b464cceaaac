"""`gatehouse serve`: what ends it, and what keeps it from starting."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.v1 import users_pb2_grpc
from tests.support.child_coverage import measured
from tests.support.cli import Cli
from tests.support.gatehouse_process import SETTINGS, GatehouseProcess, run_gatehouse


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


async def make_a_span(server: GatehouseProcess) -> None:
    (line,) = await server.until("listening")
    async with grpc.aio.insecure_channel(line["address"]) as channel:
        users: Any = users_pb2_grpc.UserServiceStub(channel)
        await users.CountUsers(pb.CountUsersRequest(), timeout=60).code()
    await server.until("rpc")


def with_collector(port: int, **more: str) -> dict[str, str]:
    return {
        "GATEHOUSE_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "GATEHOUSE_TELEMETRY__OTLP_INSECURE": "true",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
        **more,
    }


async def test_collector_that_hangs_delays_the_end_at_most_by_the_drain_time(silent: int) -> None:
    settings = measured(with_collector(silent, GATEHOUSE_SERVER__DRAIN_SECONDS="2"))
    async with run_gatehouse("serve", "users", **settings) as server:
        await make_a_span(server)
        server.process.terminate()
        await server.until("stopped")
        (warning,) = await server.until("spans were not exported; the collector did not respond")
        assert warning["level"] == "warning"
        assert await server.exit_code() == 0


async def test_second_signal_ends_the_wait_for_the_collector(silent: int) -> None:
    settings = with_collector(silent, GATEHOUSE_SERVER__DRAIN_SECONDS="600")
    async with run_gatehouse("serve", "users", **settings) as server:
        await make_a_span(server)
        server.process.terminate()
        await server.until("stopped")
        server.process.send_signal(signal.SIGINT)
        assert await server.exit_code() == 0


def test_tls_error_is_reported_before_the_database_is_asked(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as database:
        database.bind(("127.0.0.1", 0))
        database.listen()
        database.setblocking(False)
        port = database.getsockname()[1]
        settings = SETTINGS | {
            "GATEHOUSE_USERS__DATABASE_URL": f"postgresql://nobody@127.0.0.1:{port}/nothing",
            "GATEHOUSE_TLS__PLAINTEXT": "false",
        }
        done = cli("serve", "users", **settings)
        assert done.code == 2
        assert "no TLS certificate" in done.err
        with pytest.raises(BlockingIOError):
            database.accept()


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read (No such file or directory)"), ("canary", "contains no PEM certificate")],
    ids=["missing", "no certificate"],
)
def test_unusable_file_of_authorities_is_reported_at_start(
    cli: Cli, tmp_path: Path, content: str | None, problem: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    done = cli("serve", "users", **SETTINGS, GATEHOUSE_TLS__CA_FILE=str(file))

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"gatehouse: {file}: {problem}")


def test_workers_without_a_port_for_their_metrics_are_reported_at_start(cli: Cli) -> None:
    done = cli("serve", "users", "--workers", "3", **SETTINGS, GATEHOUSE_TELEMETRY__METRICS_PORT="65534")

    assert done.code == 2
    assert "GATEHOUSE_TELEMETRY__METRICS_PORT: the 3 workers need a port each" in done.err
