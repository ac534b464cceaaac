"""What a server bears: so many calls at once, so long, on connections so old."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.rpc import ServerLimits
from tests.support.http2 import open_raw_client
from tests.support.rpc import SHAPES, Client, Stand, error_info, eventually

WATCH = "/grpc.health.v1.Health/Watch"


class Held:
    """Calls that wait in their handlers until they are released."""

    def __init__(self, stand: Stand) -> None:
        self.begun = 0
        self.release = asyncio.Event()
        stand.probe.on_message = self.wait

    async def wait(self, *_: object) -> None:
        self.begun += 1
        await self.release.wait()

    async def reach(self, count: int) -> None:
        await eventually(lambda: self.begun >= count)


@pytest.mark.parametrize("name", SHAPES)
async def test_load_above_the_limit_is_refused_at_once_and_the_rest_is_answered(
    open_stand: Any, name: str
) -> None:
    async with open_stand(limits=ServerLimits(max_concurrent_rpcs=3)) as stand:
        held = Held(stand)
        calls = [asyncio.create_task(stand.client.outcome("OneOne", "a")) for _ in range(3)]
        await eventually(lambda: held.begun == 3)
        async with asyncio.timeout(5):
            code, trailers, _ = await stand.client.outcome(name, "a", timeout=60.0)
        assert (code, error_info(trailers).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        held.release.set()
        assert {code for code, _, _ in await asyncio.gather(*calls)} == {grpc.StatusCode.OK}
        assert (await stand.client.outcome(name, "a"))[0] is grpc.StatusCode.OK


async def test_a_call_above_the_limit_reaches_neither_token_check_nor_parser(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(max_concurrent_rpcs=1)) as stand:
        held = Held(stand)
        call = asyncio.create_task(stand.client.outcome("OneOne", "a"))
        await eventually(lambda: held.begun == 1)
        await stand.client.outcome("OneOne", "a", token="other")
        assert stand.verifier.asked == [("good", False)]
        held.release.set()
        await call


async def test_calls_that_fail_or_are_denied_give_their_place_back(open_stand: Any) -> None:
    async def fail(*_: object) -> None:
        raise ValueError

    async with open_stand(limits=ServerLimits(max_concurrent_rpcs=1)) as stand:
        stand.probe.on_message = fail
        for token in ("good", None, "weak", "good"):
            code, _, _ = await stand.client.outcome("OneOne", "a", token=token)
            assert code is not grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("timeout", [60.0, None])
@pytest.mark.parametrize("name", SHAPES)
async def test_a_longer_deadline_and_none_at_all_are_cut(
    open_stand: Any, name: str, timeout: float | None
) -> None:
    limits = ServerLimits(max_deadline=0.1, max_stream_deadline=0.1)
    async with open_stand(limits=limits) as stand:
        Held(stand)
        async with asyncio.timeout(10):
            call = stand.client.call(name, "a", timeout=timeout)
            code, details = await call.code(), await call.details()
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details == "the longest deadline of this server passed"
        assert (await stand.line())["code"] == "DEADLINE_EXCEEDED"


async def test_a_stream_may_last_longer_than_a_unary_call(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(max_deadline=0.1, max_stream_deadline=60.0)) as stand:
        held = Held(stand)
        stream = asyncio.create_task(stand.client.outcome("OneMany", "a", timeout=60.0))
        assert (await stand.client.outcome("OneOne", "a", timeout=60.0))[0] is (
            grpc.StatusCode.DEADLINE_EXCEEDED
        )
        held.release.set()
        assert (await stream)[0] is grpc.StatusCode.OK


async def test_the_caller_s_own_shorter_deadline_ends_its_call(stand: Stand) -> None:
    Held(stand)
    assert (await stand.client.outcome("OneOne", "a", timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_time_out_inside_a_handler_is_not_the_server_s_deadline(stand: Stand) -> None:
    async def time_out(*_: object) -> None:
        raise TimeoutError("canary")

    stand.probe.on_message = time_out
    assert (await stand.client.outcome("OneOne", "a", timeout=None))[0] is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(("limit", "count"), [(2, 6), (100, 300)])
async def test_calls_above_the_streams_of_a_connection_wait_and_are_answered(
    open_stand: Any, limit: int, count: int
) -> None:
    async with open_stand(limits=ServerLimits(max_concurrent_streams=limit)) as stand:
        for _ in range(3):
            held = Held(stand)
            calls = [asyncio.create_task(stand.client.outcome("OneOne", "a")) for _ in range(count)]
            await held.reach(limit)
            held.release.set()
            assert {code for code, _, _ in await asyncio.gather(*calls)} == {grpc.StatusCode.OK}


async def test_an_old_connection_is_replaced_and_no_call_is_lost(open_stand: Any) -> None:
    limits = ServerLimits(max_connection_age=0.3, max_connection_age_grace=30.0)
    async with open_stand(limits=limits) as stand:
        peers: set[str] = set()

        async def look(_: object, context: Any) -> None:
            peers.add(context.peer())

        stand.probe.on_message = look
        async with asyncio.timeout(30):
            while len(peers) < 3:
                assert (await stand.client.outcome("OneOne", "a"))[0] is grpc.StatusCode.OK


async def test_an_answer_above_the_limit_is_not_sent(open_stand: Any) -> None:
    """The limit on messages holds for what a handler makes of a small request, too."""
    async with open_stand(limits=ServerLimits(max_message_bytes=1024)) as stand:

        async def write_much(_: object, context: Any) -> None:
            from tests.support.rpc import Text

            await context.write(Text(value="x" * 2000))

        stand.probe.on_message = write_much
        code, _, answers = await stand.client.outcome("OneMany", "a")
        assert (code is grpc.StatusCode.OK, answers) == (False, [])


async def test_a_client_of_another_connection_is_not_held_up_by_a_full_one(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(max_concurrent_streams=1)) as stand:
        held = Held(stand)
        call = asyncio.create_task(stand.client.outcome("OneOne", "a"))
        await eventually(lambda: held.begun == 1)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stand.port}", options) as channel:
            other = asyncio.create_task(Client(channel).outcome("OneOne", "a"))
            await eventually(lambda: held.begun == 2)
            held.release.set()
            assert (await other)[0] is grpc.StatusCode.OK
        assert (await call)[0] is grpc.StatusCode.OK


SERVING = health_pb2.HealthCheckResponse.SERVING
REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED


async def begin_watch(channel: grpc.aio.Channel) -> tuple[Any, Any]:
    """Opens a health watch; returns the call, and its first status or the code that it was refused with."""
    watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    try:
        return watch, (await watch.read()).status
    except grpc.aio.AioRpcError as error:
        return watch, error.code()


async def watch_is_accepted(channel: grpc.aio.Channel) -> None:
    """Watches again and again until the server accepts it."""
    async with asyncio.timeout(10):
        while (await begin_watch(channel))[1] is REFUSED:
            pass


async def test_watches_above_the_limit_of_a_connection_are_refused_until_one_ends(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(max_watches_per_connection=2)) as stand:
        channel = stand.client.channel
        first, status = await begin_watch(channel)
        assert status == SERVING
        assert (await begin_watch(channel))[1] == SERVING
        refused, status = await begin_watch(channel)
        assert status is REFUSED
        assert await refused.details() == "too many health watches on this connection; the limit is 2"
        assert error_info(await refused.trailing_metadata()).reason == "TOO_MANY_WATCHES"
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{stand.port}", options) as other:
            assert (await begin_watch(other))[1] == SERVING
        first.cancel()
        await watch_is_accepted(channel)


async def test_watches_above_the_limit_of_the_server_are_refused_until_a_connection_ends(
    open_stand: Any,
) -> None:
    limits = ServerLimits(max_watches_per_connection=2, max_watches=3)
    async with open_stand(limits=limits) as stand:
        channel = stand.client.channel
        assert (await begin_watch(channel))[1] == SERVING
        async with open_raw_client(stand.port) as client:
            for stream in (1, 3):
                await client.send(*client.headers(stream, WATCH), client.message(stream, b""))
            async with asyncio.timeout(10):
                await client.answered([1, 3])
            refused, status = await begin_watch(channel)
            assert status is REFUSED
            assert await refused.details() == "too many health watches on this server; the limit is 3"
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        await watch_is_accepted(channel)


async def test_a_watch_without_a_request_counts_too(open_stand: Any) -> None:
    limits = ServerLimits(max_watches_per_connection=1)
    async with open_stand(limits=limits) as stand, open_raw_client(stand.port) as client:
        await client.send(*client.headers(1, WATCH), *client.headers(3, WATCH))
        async with asyncio.timeout(10):
            assert (await client.ending(3))["grpc-status"] == "8"


async def test_a_refused_watch_is_logged_as_a_warning_with_its_reason(open_stand: Any) -> None:
    async with open_stand(limits=ServerLimits(max_watches=0)) as stand:
        assert (await begin_watch(stand.client.channel))[1] is REFUSED
        line = await stand.line()
        assert (line["level"], line["reason"]) == ("warning", "TOO_MANY_WATCHES")


async def test_a_health_check_without_a_request_ends_at_the_server_s_deadline(open_stand: Any) -> None:
    limits = ServerLimits(max_deadline=0.1)
    async with open_stand(limits=limits) as stand, open_raw_client(stand.port) as client:
        await client.send(*client.headers(1, "/grpc.health.v1.Health/Check"))
        async with asyncio.timeout(10):
            assert (await client.ending(1))["grpc-status"] == "4"
