"""The context that handlers get: it behaves like that of gRPC, over messages."""

from typing import Any

import grpc
import grpc.aio
import pytest

from gatehouse.rpc import Service
from tests.support.eventually import eventually
from tests.support.rpc import METHODS, Env, Text, open_env, service_of


async def seen_by_handler(env: Env, look: Any, name: str = "Unary", **more: Any) -> Any:
    """Make a call and return the result of `look` for its context."""
    found: list[Any] = []

    async def on_message(_: Text, context: Any) -> None:
        found.append(look(context))

    env.probe.on_message = on_message
    assert (await env.client.outcome(name, "a", **more))[0] is grpc.StatusCode.OK
    return found[0]


async def test_the_context_has_everything_that_grpc_documents(env: Env) -> None:
    public = [name for name in dir(grpc.aio.ServicerContext) if not name.startswith("_")]
    missing = await seen_by_handler(env, lambda c: [name for name in public if not hasattr(c, name)])
    assert (missing, "abort" in public) == ([], True)


async def test_the_peer_is_that_of_grpc(env: Env) -> None:
    assert (await seen_by_handler(env, lambda c: c.peer())).startswith("ipv4:127.0.0.1:")


async def test_a_plaintext_peer_has_no_identity(env: Env) -> None:
    look = lambda c: (c.peer_identities(), c.peer_identity_key())  # noqa: E731 - one expression
    assert await seen_by_handler(env, look) == (None, None)
    context = await seen_by_handler(env, lambda c: c.auth_context())
    assert b"x509_common_name" not in str(context).encode()


async def test_the_remaining_time_is_that_of_the_client(env: Env) -> None:
    remaining = await seen_by_handler(env, lambda c: c.time_remaining(), timeout=20.0)
    assert 15 < remaining < 21  # gRPC rounds timeouts up


async def test_a_call_in_progress_is_neither_done_nor_cancelled(env: Env) -> None:
    assert await seen_by_handler(env, lambda c: (c.done(), c.cancelled())) == (False, False)


async def test_done_callbacks_run_when_the_call_is_done(env: Env) -> None:
    done: list[object] = []
    await seen_by_handler(env, lambda c: c.add_done_callback(done.append))
    await eventually(lambda: done)


async def test_initial_metadata_arrives_before_the_response(env: Env) -> None:
    async def send(_: Text, context: Any) -> None:
        await context.send_initial_metadata((("x-first", "1"),))

    env.probe.on_message = send
    call = env.client.call("Unary", "a")
    assert ("x-first", "1") in tuple(await call.initial_metadata())
    await call


@pytest.mark.parametrize("name", METHODS)
async def test_compression_can_be_set_and_disabled(env: Env, name: str) -> None:
    async def compress(_: Text, context: Any) -> None:
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()

    env.probe.on_message = compress
    assert (await env.client.outcome(name, "a"))[0] is grpc.StatusCode.OK


async def test_a_handler_without_deserializer_gets_bytes() -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request + b"!"

    def add(_: object, server: Any) -> None:
        server.add_registered_method_handlers(
            "probe.v1.Raw",
            {"Call": grpc.unary_unary_rpc_method_handler(echo)},
        )

    async with open_env(services=[Service(add, object())]) as env:
        stub: Any = env.client.channel.unary_unary("/probe.v1.Raw/Call")
        assert await stub(b"a", metadata=(("authorization", "Bearer good"),)) == b"a!"


async def test_a_bidi_handler_can_use_read_and_write() -> None:
    async def chat(_: object, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(Text(value=request.value + "!"))

    service = service_of("probe.v1.Chat", wrap=grpc.stream_stream_rpc_method_handler, Talk=chat)
    async with open_env(services=[service]) as env:
        stub: Any = env.client.channel.stream_stream(
            "/probe.v1.Chat/Talk", Text.SerializeToString, Text.FromString
        )
        call = stub([Text(value="a"), Text(value="b")], metadata=(("authorization", "Bearer good"),))
        assert [m.value async for m in call] == ["a!", "b!"]


async def test_bytes_of_all_requests_and_responses_are_counted(env: Env) -> None:
    await env.client.outcome("BidiStream", "a", "b")
    line = await env.line()
    assert (line["bytes_received"], line["bytes_sent"]) == (6, 6)
