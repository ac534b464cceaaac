"""Limits on concurrent calls, their duration, message size and the age of connections."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.eventually import eventually
from tests.support.http2 import open_raw_client
from tests.support.rpc import METHODS, Client, Env, Text, error_info, open_env

WATCH = "/grpc.health.v1.Health/Watch"


class Blocked:
    """Handlers block until they are released."""

    def __init__(self, env: Env) -> None:
        self.begun = 0
        self.release = asyncio.Event()
        env.probe.on_message = self.wait

    async def wait(self, *_: object) -> None:
        self.begun += 1
        await self.release.wait()

    async def wait_for(self, count: int) -> None:
        await eventually(lambda: self.begun >= count)


@pytest.mark.parametrize("name", METHODS)
async def test_calls_above_the_limit_are_refused_at_once(name: str) -> None:
    async with open_env(max_concurrent_rpcs=3, max_streams=3) as env:
        blocked = Blocked(env)
        calls = [asyncio.create_task(env.client.outcome(name, "a")) for _ in range(3)]
        await blocked.wait_for(3)
        async with asyncio.timeout(5):
            code, trailers, _ = await env.client.outcome(name, "a", timeout=60.0)
        assert (code, error_info(trailers).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        blocked.release.set()
        assert {code for code, _, _ in await asyncio.gather(*calls)} == {grpc.StatusCode.OK}
        assert (await env.client.outcome(name, "a"))[0] is grpc.StatusCode.OK


async def test_streams_do_not_count_against_the_limit_of_unary_calls() -> None:
    async with open_env(max_concurrent_rpcs=1, max_streams=3) as env:
        blocked = Blocked(env)
        streams = [asyncio.create_task(env.client.outcome("ServerStream", "a")) for _ in range(3)]
        await blocked.wait_for(3)
        unary = asyncio.create_task(env.client.outcome("Unary", "a"))
        await blocked.wait_for(4)
        blocked.release.set()
        assert {code for code, _, _ in await asyncio.gather(unary, *streams)} == {grpc.StatusCode.OK}


async def test_a_call_above_the_limit_is_refused_before_its_token_is_verified() -> None:
    async with open_env(max_concurrent_rpcs=1) as env:
        blocked = Blocked(env)
        call = asyncio.create_task(env.client.outcome("Unary", "a"))
        await blocked.wait_for(1)
        await env.client.outcome("Unary", "a", token="other")
        assert env.verifier.asked == [("good", False)]
        blocked.release.set()
        await call


async def test_failed_and_refused_calls_no_longer_count() -> None:
    async def fail(*_: object) -> None:
        raise ValueError

    async with open_env(max_concurrent_rpcs=1) as env:
        env.probe.on_message = fail
        for token in ("good", None, "weak", "good"):
            code, _, _ = await env.client.outcome("Unary", "a", token=token)
            assert code is not grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("timeout", [60.0, None])
@pytest.mark.parametrize("name", METHODS)
async def test_a_longer_deadline_or_none_is_limited(name: str, timeout: float | None) -> None:
    async with open_env(max_deadline_seconds=0.1, max_stream_deadline_seconds=0.1) as env:
        Blocked(env)
        async with asyncio.timeout(10):
            call = env.client.call(name, "a", timeout=timeout)
            code, details = await call.code(), await call.details()
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details == "exceeded the server's limit on the duration of calls"
        assert (await env.line())["code"] == "DEADLINE_EXCEEDED"


async def test_streams_have_a_limit_of_their_own() -> None:
    async with open_env(max_deadline_seconds=0.1, max_stream_deadline_seconds=60.0) as env:
        blocked = Blocked(env)
        stream = asyncio.create_task(env.client.outcome("ServerStream", "a", timeout=60.0))
        assert (await env.client.outcome("Unary", "a", timeout=60.0))[0] is (
            grpc.StatusCode.DEADLINE_EXCEEDED
        )
        blocked.release.set()
        assert (await stream)[0] is grpc.StatusCode.OK


async def test_a_shorter_deadline_of_the_client_is_kept(env: Env) -> None:
    Blocked(env)
    assert (await env.client.outcome("Unary", "a", timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_timeout_error_in_a_handler_is_internal(env: Env) -> None:
    async def time_out(*_: object) -> None:
        raise TimeoutError("canary")

    env.probe.on_message = time_out
    assert (await env.client.outcome("Unary", "a", timeout=None))[0] is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(("limit", "count"), [(2, 6), (100, 300)])
async def test_calls_above_the_limit_of_a_connection_are_queued(limit: int, count: int) -> None:
    async with open_env(max_concurrent_streams=limit) as env:
        for _ in range(3):
            blocked = Blocked(env)
            calls = [asyncio.create_task(env.client.outcome("Unary", "a")) for _ in range(count)]
            await blocked.wait_for(limit)
            blocked.release.set()
            assert {code for code, _, _ in await asyncio.gather(*calls)} == {grpc.StatusCode.OK}


async def test_old_connections_are_replaced_without_losing_a_call() -> None:
    async with open_env(max_connection_age_seconds=0.3, max_connection_age_grace_seconds=30.0) as env:
        peers: set[str] = set()

        async def look(_: object, context: Any) -> None:
            peers.add(context.peer())

        env.probe.on_message = look
        async with asyncio.timeout(30):
            while len(peers) < 3:
                assert (await env.client.outcome("Unary", "a"))[0] is grpc.StatusCode.OK


async def test_an_oversize_response_is_not_sent() -> None:
    async with open_env(max_message_bytes=1024) as env:

        async def write_too_much(_: object, context: Any) -> None:
            await context.write(Text(value="x" * 2000))

        env.probe.on_message = write_too_much
        code, _, responses = await env.client.outcome("ServerStream", "a")
        assert (code, responses) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [])


async def test_a_full_connection_does_not_block_another_one() -> None:
    async with open_env(max_concurrent_streams=1) as env:
        blocked = Blocked(env)
        call = asyncio.create_task(env.client.outcome("Unary", "a"))
        await blocked.wait_for(1)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{env.port}", options) as channel:
            other = asyncio.create_task(Client(channel).outcome("Unary", "a"))
            await blocked.wait_for(2)
            blocked.release.set()
            assert (await other)[0] is grpc.StatusCode.OK
        assert (await call)[0] is grpc.StatusCode.OK


SERVING = health_pb2.HealthCheckResponse.SERVING
REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED


async def begin_watch(channel: grpc.aio.Channel) -> tuple[Any, Any]:
    """Open a health watch; return the call, and its first status or the code of its refusal."""
    watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    try:
        return watch, (await watch.read()).status
    except grpc.aio.AioRpcError as error:
        return watch, error.code()


async def watch_is_accepted(channel: grpc.aio.Channel) -> None:
    """Open watches until the server accepts one."""
    async with asyncio.timeout(10):
        while (await begin_watch(channel))[1] is REFUSED:
            pass


async def test_watches_above_the_limit_of_a_connection_are_refused_until_one_ends() -> None:
    async with open_env(max_watches_per_connection=2) as env:
        channel = env.client.channel
        first, status = await begin_watch(channel)
        assert status == SERVING
        assert (await begin_watch(channel))[1] == SERVING
        refused, status = await begin_watch(channel)
        assert status is REFUSED
        assert await refused.details() == "too many health watches on this connection; the limit is 2"
        assert error_info(await refused.trailing_metadata()).reason == "TOO_MANY_WATCHES"
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{env.port}", options) as other:
            assert (await begin_watch(other))[1] == SERVING
        first.cancel()
        await watch_is_accepted(channel)


async def test_watches_above_the_limit_of_the_server_are_refused_until_a_connection_ends() -> None:
    async with open_env(max_watches_per_connection=2, max_watches=3) as env:
        channel = env.client.channel
        assert (await begin_watch(channel))[1] == SERVING
        async with open_raw_client(env.port) as client:
            for stream in (1, 3):
                await client.send(*client.headers(stream, WATCH), client.message(stream, b""))
            async with asyncio.timeout(10):
                await client.wait_for_responses([1, 3])
            refused, status = await begin_watch(channel)
            assert status is REFUSED
            assert await refused.details() == "too many health watches on this server; the limit is 3"
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        await watch_is_accepted(channel)


async def test_a_watch_without_a_request_counts() -> None:
    async with open_env(max_watches_per_connection=1) as env, open_raw_client(env.port) as client:
        await client.send(*client.headers(1, WATCH), *client.headers(3, WATCH))
        async with asyncio.timeout(10):
            assert (await client.outcome(3))["grpc-status"] == "8"


async def test_a_refused_watch_is_logged_as_a_warning() -> None:
    async with open_env(max_watches=1) as env:
        assert (await begin_watch(env.client.channel))[1] == SERVING
        assert (await begin_watch(env.client.channel))[1] is REFUSED
        line = await env.line()
        assert (line["level"], line["reason"]) == ("warning", "TOO_MANY_WATCHES")


async def test_a_health_check_without_a_request_is_limited_in_duration() -> None:
    async with open_env(max_deadline_seconds=0.1) as env, open_raw_client(env.port) as client:
        await client.send(*client.headers(1, "/grpc.health.v1.Health/Check"))
        async with asyncio.timeout(10):
            assert (await client.outcome(1))["grpc-status"] == "4"
