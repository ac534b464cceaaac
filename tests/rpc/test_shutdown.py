"""An end that loses no call: a real process under calls of all shapes, and a real signal."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client import connect
from gatehouse.rpc._intake import Intake
from gatehouse.settings import TlsSettings
from tests.support.probe_process import ProbeProcess, probe_process
from tests.support.rpc import SHAPES, Client, Stand, eventually, reached
from tests.support.services import FixedToken


def plain_client(port: int) -> tuple[grpc.aio.Channel, Client]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    return channel, Client(channel)


def held_calls(client: Client, folder: Path) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(client.outcome(name, str(folder / name), timeout=60.0)) for name in SHAPES]


async def all_begun(folder: Path) -> None:
    await eventually(lambda: all((folder / f"{name}.begun").exists() for name in SHAPES), seconds=20)


def release(folder: Path) -> None:
    for name in SHAPES:
        (folder / name).touch()


async def drain_begins(process: ProbeProcess) -> None:
    """Waits until the process takes no new connections."""

    def refuses() -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", process.port)) != 0

    await eventually(refuses, seconds=20)


@pytest.mark.parametrize("signal_name", ["terminate", "interrupt"])
async def test_a_signal_loses_no_call_that_is_under_way(tmp_path: Path, signal_name: str) -> None:
    async with probe_process() as process:
        channel, client = plain_client(process.port)
        async with channel:
            calls = held_calls(client, tmp_path)
            await all_begun(tmp_path)
            getattr(process, signal_name)()
            await drain_begins(process)
            release(tmp_path)
            outcomes = await asyncio.gather(*calls)
        assert [code for code, _, _ in outcomes] == [grpc.StatusCode.OK] * len(SHAPES)
        assert await process.exit_code() == 0


async def test_calls_that_outlast_the_drain_are_ended(tmp_path: Path) -> None:
    async with probe_process(limits={"drain": 0.2}) as process:
        channel, client = plain_client(process.port)
        async with channel:
            calls = held_calls(client, tmp_path)
            await all_begun(tmp_path)
            process.terminate()
            outcomes = await asyncio.gather(*calls)
        assert await process.exit_code() == 0
    assert {code for code, _, _ in outcomes} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    ended = [line for line in process.lines if line["event"] == "rpc"]
    assert [line["code"] for line in ended] == ["CANCELLED"] * len(SHAPES)


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with probe_process(limits={"drain": 600.0}) as process:
        channel, client = plain_client(process.port)
        async with channel:
            calls = held_calls(client, tmp_path)
            await all_begun(tmp_path)
            process.terminate()
            await drain_begins(process)
            process.terminate()
            await asyncio.gather(*calls)
        assert await process.exit_code() == 0


async def test_an_idle_server_ends_without_waiting_for_its_drain() -> None:
    async with probe_process(limits={"drain": 600.0}) as process:
        process.terminate()
        assert await process.exit_code() == 0


async def test_a_watch_of_health_does_not_hold_the_end_up() -> None:
    async with probe_process(limits={"drain": 600.0}) as process:
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


async def test_callers_see_no_failure_while_one_process_takes_over_from_another() -> None:
    """A rolling restart behind one port, under load, through the project's own channel."""
    codes: list[grpc.StatusCode] = []
    done = asyncio.Event()

    async def call_again_and_again(client: Client, name: str) -> None:
        while not done.is_set():
            code, _, answers = await client.outcome(name, "a", token=None, timeout=30.0)
            codes.append(code if answers or code is not grpc.StatusCode.OK else grpc.StatusCode.UNKNOWN)

    async with probe_process(reuse_port=True) as old:
        channels = [
            connect(f"127.0.0.1:{old.port}", tls=TlsSettings(plaintext=True), tokens=FixedToken("good"))
            for _ in range(2)
        ]
        callers = [
            asyncio.create_task(call_again_and_again(Client(channel), name))
            for channel in channels
            for name in ("OneOne", "OneOne", "OneMany", "ManyMany")
        ]
        await reached(lambda: len(codes), 100)
        async with probe_process(reuse_port=True, port=old.port) as new:
            old.terminate()
            assert await old.exit_code() == 0
            taken_over = len(codes)
            await reached(lambda: len(codes), taken_over + 100)
            done.set()
            await asyncio.gather(*callers)
            for channel in channels:
                await channel.close()
            new.terminate()
            assert await new.exit_code() == 0
    assert [code for code in codes if code is not grpc.StatusCode.OK] == []


async def test_calls_that_keep_coming_do_not_put_the_end_off() -> None:
    intake = Intake()
    held: list[asyncio.Task[None]] = []

    async def keep_coming() -> None:
        while True:
            if intake.gate is not None:
                held.append(asyncio.create_task(intake.hold(intake.gate)))
            await asyncio.sleep(0)

    coming = asyncio.create_task(keep_coming())
    async with asyncio.timeout(10):
        await intake.close()
    coming.cancel()
    assert held
    assert not any(task.done() for task in held)
    intake.open()
    await asyncio.gather(*held)


async def test_an_end_that_is_given_up_lets_held_calls_go_on(open_stand: Any) -> None:
    async with open_stand() as stand:
        stopping = asyncio.create_task(stand.server.stop(30))
        await eventually(lambda: stand.server._intake.gate is not None)
        call = asyncio.create_task(stand.client.outcome("OneOne", "a"))
        stopping.cancel()
        assert (await call)[0] is grpc.StatusCode.OK


async def test_a_port_that_is_taken_is_one_clear_line(stand: Stand, open_stand: Any) -> None:
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{stand.port}: cannot listen there"):
        async with open_stand(port=stand.port):
            pass


async def test_a_server_that_was_not_started_can_be_stopped(open_stand: Any) -> None:
    from gatehouse.rpc import Server, ServerTls
    from tests.support.rpc import Probe, TableVerifier
    from tests.support.services import quiet

    server = Server(
        [Probe().service()],
        verifier=TableVerifier(),
        tls=ServerTls(plaintext=True),
        logger=quiet(),
        default_scopes=["a"],
    )
    await server.stop()


async def test_a_server_can_be_stopped_twice(open_stand: Any) -> None:
    async with open_stand() as stand:
        await stand.server.stop(0)
        await stand.server.stop()


async def test_a_server_listens_on_ipv6_loopback(open_stand: Any) -> None:
    async with open_stand(host="::1") as stand, grpc.aio.insecure_channel(f"[::1]:{stand.port}") as channel:
        assert (await Client(channel).outcome("OneOne", "a"))[0] is grpc.StatusCode.OK
