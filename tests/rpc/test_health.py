"""The health service, as load balancers and orchestrators use it."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.rpc.health import Health
from tests.support.eventually import eventually
from tests.support.rpc import PROBE, Env, open_env

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def stub(env: Env) -> Any:
    return health_pb2_grpc.HealthStub(env.client.channel)


def request(name: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=name)


async def check(env: Env, name: str = "") -> Any:
    return (await stub(env).Check(request(name), timeout=10)).status


async def wait_for_status(env: Env, status: Any, name: str = "") -> None:
    async with asyncio.timeout(10):
        while await check(env, name) != status:
            pass


@pytest.mark.parametrize("name", ["", PROBE, "liveness"])
async def test_a_ready_server_is_serving_under_every_name(env: Env, name: str) -> None:
    assert await check(env, name) == SERVING


async def test_a_check_of_an_unknown_service_is_not_found(env: Env) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(env, "other.v1.Other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_checks_need_no_token(env: Env) -> None:
    await check(env)
    assert env.verifier.asked == []


async def test_status_follows_readiness_but_liveness_stays_serving() -> None:
    ready = False
    async with open_env(readiness=lambda: ready) as env:
        assert (await check(env), await check(env, PROBE)) == (NOT_SERVING, NOT_SERVING)
        assert await check(env, "liveness") == SERVING
        ready = True
        await wait_for_status(env, SERVING)
        assert await check(env, PROBE) == SERVING
        ready = False
        await wait_for_status(env, NOT_SERVING)
        assert await check(env, "liveness") == SERVING
    changes = [line for line in env.log if line["event"] == "readiness changed"]
    assert [(line["ready"], line["level"]) for line in changes] == [(True, "info"), (False, "warning")]


async def test_a_change_during_the_start_is_not_missed() -> None:
    answers = iter([False])
    async with open_env(readiness=lambda: next(answers, True)) as env:
        await wait_for_status(env, SERVING)


async def test_a_watch_sends_every_change() -> None:
    ready = True
    async with open_env(readiness=lambda: ready) as env:
        watch = stub(env).Watch(request(PROBE))
        assert (await watch.read()).status == SERVING
        ready = False
        assert (await watch.read()).status == NOT_SERVING
        ready = True
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_a_watch_of_an_unknown_service_stays_open(env: Env) -> None:
    watch = stub(env).Watch(request("other.v1.Other"))
    assert (await watch.read()).status == UNKNOWN
    assert not watch.done()
    watch.cancel()


async def test_a_watch_sends_the_final_status_even_if_it_is_still_sending() -> None:
    health = Health([PROBE])
    health.set_problems(())
    context: Any = None
    watch = health.Watch(request(), context)
    assert (await anext(watch)).status == SERVING
    health.end()  # before the watch continues
    assert [response.status async for response in watch] == [NOT_SERVING]


async def test_a_watch_sends_not_serving_and_ends_when_the_server_stops() -> None:
    async with open_env() as env:
        watch = stub(env).Watch(request())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(env.server.stop(30))
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        async with asyncio.timeout(10):
            await stopping


async def test_a_stopping_server_stays_not_serving() -> None:
    ready = False
    async with open_env(readiness=lambda: ready) as env:
        release, begun = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await release.wait()

        env.probe.on_message = wait
        call = asyncio.create_task(env.client.outcome("Unary", "a"))
        await begun.wait()
        watch = stub(env).Watch(request())
        assert (await watch.read()).status == NOT_SERVING
        stopping = asyncio.create_task(env.server.stop(30))
        ready = True
        assert await watch.read() is grpc.aio.EOF
        env.server._health.set_problems(())
        release.set()
        assert (await call)[0] is grpc.StatusCode.OK
        await stopping


async def test_an_overloaded_server_answers_health_checks() -> None:

    async with open_env(max_concurrent_rpcs=1) as env:
        begun, release = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await release.wait()

        env.probe.on_message = wait
        call = asyncio.create_task(env.client.outcome("Unary", "a"))
        await begun.wait()
        assert await check(env) == SERVING
        release.set()
        await call


async def test_cancelled_watches_leave_no_tasks_behind(env: Env) -> None:
    before = len(asyncio.all_tasks())
    watches = [stub(env).Watch(request()) for _ in range(20)]
    for watch in watches:
        assert (await watch.read()).status == SERVING
    for watch in watches:
        watch.cancel()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
