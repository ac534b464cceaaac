"""grpc.health.v1: what a load balancer and an orchestrator are told, and when."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.rpc.health import Health
from tests.support.rpc import PROBE, Stand, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def stub(stand: Stand) -> Any:
    return health_pb2_grpc.HealthStub(stand.client.channel)


def asked_for(name: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=name)


async def check(stand: Stand, name: str = "") -> Any:
    return (await stub(stand).Check(asked_for(name), timeout=10)).status


async def comes_to(stand: Stand, status: Any, name: str = "") -> None:
    async with asyncio.timeout(10):
        while await check(stand, name) != status:
            pass


@pytest.mark.parametrize("name", ["", PROBE, "liveness"])
async def test_a_server_that_is_ready_serves_under_every_name(stand: Stand, name: str) -> None:
    assert await check(stand, name) == SERVING


async def test_a_service_that_is_not_here_is_not_found(stand: Stand) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(stand, "other.v1.Other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_nobody_needs_a_token_to_ask(stand: Stand) -> None:
    await check(stand)
    assert stand.verifier.asked == []


async def test_readiness_follows_and_returns_by_itself_and_liveness_does_not(open_stand: Any) -> None:
    ready = False
    async with open_stand(readiness=lambda: ready) as stand:
        assert (await check(stand), await check(stand, PROBE)) == (NOT_SERVING, NOT_SERVING)
        assert await check(stand, "liveness") == SERVING
        ready = True
        await comes_to(stand, SERVING)
        assert await check(stand, PROBE) == SERVING
        ready = False
        await comes_to(stand, NOT_SERVING)
        assert await check(stand, "liveness") == SERVING
    assert [line["ready"] for line in stand.log if line["event"] == "readiness changed"] == [True, False]


async def test_a_change_while_the_server_starts_is_not_missed(open_stand: Any) -> None:
    answers = iter([False])
    async with open_stand(readiness=lambda: next(answers, True)) as stand:
        await comes_to(stand, SERVING)


async def test_a_watch_says_every_change(open_stand: Any) -> None:
    ready = True
    async with open_stand(readiness=lambda: ready) as stand:
        watch = stub(stand).Watch(asked_for(PROBE))
        assert (await watch.read()).status == SERVING
        ready = False
        assert (await watch.read()).status == NOT_SERVING
        ready = True
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_a_watch_of_a_service_that_is_not_here_says_so_and_lasts(stand: Stand) -> None:
    watch = stub(stand).Watch(asked_for("other.v1.Other"))
    assert (await watch.read()).status == UNKNOWN
    assert not watch.done()
    watch.cancel()


async def test_a_watch_that_is_still_saying_the_last_status_says_the_final_one_too() -> None:
    health = Health([PROBE])
    health.set_ready(ready=True)
    context: Any = None
    watch = health.Watch(asked_for(), context)
    assert (await anext(watch)).status == SERVING
    health.end()  # while what was said is still on its way
    assert [answer.status async for answer in watch] == [NOT_SERVING]


async def test_a_watch_says_not_serving_and_ends_when_the_server_stops(open_stand: Any) -> None:
    async with open_stand() as stand:
        watch = stub(stand).Watch(asked_for())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(stand.server.stop(30))
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        async with asyncio.timeout(10):
            await stopping


async def test_a_server_that_stops_does_not_come_back_to_serving(open_stand: Any) -> None:
    ready = False
    async with open_stand(readiness=lambda: ready) as stand:
        release, begun = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await release.wait()

        stand.probe.on_message = wait
        call = asyncio.create_task(stand.client.outcome("OneOne", "a"))
        await begun.wait()
        watch = stub(stand).Watch(asked_for())
        assert (await watch.read()).status == NOT_SERVING
        stopping = asyncio.create_task(stand.server.stop(30))
        ready = True
        assert await watch.read() is grpc.aio.EOF
        stand.server._health.set_ready(ready=True)
        release.set()
        assert (await call)[0] is grpc.StatusCode.OK
        await stopping


async def test_health_is_answered_when_the_server_is_at_its_limit(open_stand: Any) -> None:
    from gatehouse.rpc import ServerLimits

    async with open_stand(limits=ServerLimits(max_concurrent_rpcs=1)) as stand:
        begun, release = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await release.wait()

        stand.probe.on_message = wait
        call = asyncio.create_task(stand.client.outcome("OneOne", "a"))
        await begun.wait()
        assert await check(stand) == SERVING
        release.set()
        await call


async def test_watches_that_are_left_leave_nothing_behind(stand: Stand) -> None:
    before = len(asyncio.all_tasks())
    watches = [stub(stand).Watch(asked_for()) for _ in range(20)]
    for watch in watches:
        assert (await watch.read()).status == SERVING
    for watch in watches:
        watch.cancel()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
