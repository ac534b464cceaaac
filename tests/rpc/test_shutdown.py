"""Graceful shutdown of a real process by real signals, with calls of all RPC types in progress."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client import connect
from gatehouse.rpc import PolicyOptions, Server, ServerTelemetry
from gatehouse.rpc._drain import Drain
from gatehouse.settings import TlsSettings
from tests.support.eventually import eventually
from tests.support.probe_process import ProbeProcess, probe_process
from tests.support.rpc import METHODS, PLAINTEXT, Client, Env, Probe, TableVerifier, open_env, reached
from tests.support.services import FixedToken, quiet


def plain_client(port: int) -> tuple[grpc.aio.Channel, Client]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    return channel, Client(channel)


def start_blocked_calls(client: Client, folder: Path) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(client.outcome(name, str(folder / name), timeout=60.0)) for name in METHODS]


async def wait_until_all_begun(folder: Path) -> None:
    await eventually(lambda: all((folder / f"{name}.begun").exists() for name in METHODS), seconds=20)


def release(folder: Path) -> None:
    for name in METHODS:
        (folder / name).touch()


async def wait_for_drain(process: ProbeProcess) -> None:
    """Wait until the process accepts no new connections."""

    def refuses() -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", process.port)) != 0

    await eventually(refuses, seconds=20)


@pytest.mark.parametrize("signal_name", ["terminate", "interrupt"])
async def test_calls_in_progress_finish_after_a_signal(tmp_path: Path, signal_name: str) -> None:
    async with probe_process() as process:
        channel, client = plain_client(process.port)
        async with channel:
            calls = start_blocked_calls(client, tmp_path)
            await wait_until_all_begun(tmp_path)
            getattr(process, signal_name)()
            await wait_for_drain(process)
            release(tmp_path)
            outcomes = await asyncio.gather(*calls)
        assert [code for code, _, _ in outcomes] == [grpc.StatusCode.OK] * len(METHODS)
        assert await process.exit_code() == 0


async def test_calls_are_cancelled_after_the_drain_time(tmp_path: Path) -> None:
    async with probe_process(drain_seconds=0.2) as process:
        channel, client = plain_client(process.port)
        async with channel:
            calls = start_blocked_calls(client, tmp_path)
            await wait_until_all_begun(tmp_path)
            process.terminate()
            outcomes = await asyncio.gather(*calls)
        assert await process.exit_code() == 0
    assert {code for code, _, _ in outcomes} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    ended = [line for line in process.lines if line["event"] == "rpc"]
    assert [line["code"] for line in ended] == ["CANCELLED"] * len(METHODS)


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    async with probe_process(drain_seconds=600.0) as process:
        channel, client = plain_client(process.port)
        async with channel:
            calls = start_blocked_calls(client, tmp_path)
            await wait_until_all_begun(tmp_path)
            process.terminate()
            await wait_for_drain(process)
            process.terminate()
            await asyncio.gather(*calls)
        assert await process.exit_code() == 0


async def test_server_with_a_stop_delay_reports_not_serving_and_accepts_calls() -> None:
    async with probe_process(stop_delay_seconds=600.0, drain_seconds=600.0) as process:
        channel, client = plain_client(process.port)
        async with channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            process.terminate()

            async def not_serving() -> bool:
                status = (await health.Check(request)).status
                return bool(status == health_pb2.HealthCheckResponse.NOT_SERVING)

            await eventually(not_serving)
            assert (await client.outcome("Unary", "x"))[0] is grpc.StatusCode.OK
            process.terminate()
            assert await process.exit_code() == 0


async def test_calls_are_refused_after_the_stop_delay() -> None:
    async with probe_process(stop_delay_seconds=0.2) as process:
        process.terminate()
        assert await process.exit_code() == 0


async def test_an_idle_server_stops_at_once() -> None:
    async with probe_process(drain_seconds=600.0) as process:
        process.terminate()
        assert await process.exit_code() == 0


async def test_a_health_watch_does_not_delay_the_shutdown() -> None:
    async with probe_process(drain_seconds=600.0) as process:
        channel, _ = plain_client(process.port)
        async with channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            process.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            assert await watch.code() is grpc.StatusCode.OK
        assert await process.exit_code() == 0


async def test_a_rolling_restart_loses_no_call() -> None:
    """Two processes share a port, and the clients use the channel of `gatehouse.client`."""
    codes: list[grpc.StatusCode] = []
    done = asyncio.Event()

    async def call_repeatedly(client: Client, name: str) -> None:
        while not done.is_set():
            code, _, responses = await client.outcome(name, "a", token=None, timeout=30.0)
            codes.append(code if responses or code is not grpc.StatusCode.OK else grpc.StatusCode.UNKNOWN)

    async with probe_process(reuse_port=True) as old:
        channels = [
            connect(f"127.0.0.1:{old.port}", tls=TlsSettings(plaintext=True), tokens=FixedToken("good"))
            for _ in range(2)
        ]
        callers = [
            asyncio.create_task(call_repeatedly(Client(channel), name))
            for channel in channels
            for name in ("Unary", "Unary", "ServerStream", "BidiStream")
        ]
        await reached(lambda: len(codes), 100)
        async with probe_process(reuse_port=True, port=old.port) as new:
            old.terminate()
            assert await old.exit_code() == 0
            before = len(codes)
            await reached(lambda: len(codes), before + 100)
            done.set()
            await asyncio.gather(*callers)
            for channel in channels:
                await channel.close()
            new.terminate()
            assert await new.exit_code() == 0
    assert [code for code in codes if code is not grpc.StatusCode.OK] == []


async def test_new_calls_do_not_delay_the_shutdown() -> None:
    drain = Drain()
    held: list[asyncio.Task[None]] = []

    async def keep_calling() -> None:
        while True:
            if drain.holding:
                held.append(asyncio.create_task(drain.admit()))
            await asyncio.sleep(0)

    calling = asyncio.create_task(keep_calling())
    async with asyncio.timeout(10):
        await drain.hold_calls()
    calling.cancel()
    assert held
    assert not any(task.done() for task in held)
    drain.release_calls()
    await asyncio.gather(*held)


async def test_calls_are_held_until_clients_that_wait_for_other_calls_are_held_too() -> None:
    """Such a client sends its next call some time later. After the server has stopped, it would be lost."""
    drain = Drain()
    holding = asyncio.create_task(drain.hold_calls())
    held: list[asyncio.Task[None]] = []
    for _ in range(4):
        await asyncio.sleep(0.05)
        assert not holding.done()
        held.append(asyncio.create_task(drain.admit()))
    await holding
    drain.release_calls()
    await asyncio.gather(*held)


async def test_calls_are_held_longer_if_the_machine_is_short_of_cpu() -> None:
    drain = Drain()
    holding = asyncio.create_task(drain.hold_calls())
    await asyncio.sleep(0)
    time.sleep(0.06)  # noqa: ASYNC251 - the event loop gets no CPU
    await asyncio.sleep(0.3)
    assert not holding.done()
    async with asyncio.timeout(10):
        await holding


async def test_held_calls_continue_if_the_shutdown_is_cancelled() -> None:
    async with open_env() as env:
        stopping = asyncio.create_task(env.server.stop(30))
        await eventually(lambda: env.server._drain.holding)
        call = asyncio.create_task(env.client.outcome("Unary", "a"))
        stopping.cancel()
        assert (await call)[0] is grpc.StatusCode.OK


async def test_a_port_in_use_is_a_clear_error(env: Env) -> None:
    with pytest.raises(OSError, match=rf":{env.port}: cannot listen; correct host or port"):
        async with open_env(port=env.port):
            pass


async def test_a_server_that_was_not_started_can_be_stopped() -> None:
    server = Server(
        [Probe().service()],
        verifier=TableVerifier(),
        tls=PLAINTEXT,
        telemetry=ServerTelemetry(quiet()),
        policy=PolicyOptions(default_scopes=["a"]),
    )
    await server.stop()


async def test_a_server_can_be_stopped_twice() -> None:
    async with open_env() as env:
        await env.server.stop(0)
        await env.server.stop()


async def test_a_server_listens_on_ipv6_loopback() -> None:
    async with open_env(host="::1") as env, grpc.aio.insecure_channel(f"[::1]:{env.port}") as channel:
        assert (await Client(channel).outcome("Unary", "a"))[0] is grpc.StatusCode.OK
