"""What a servicer's context gives: gRPC's own, over messages, with the call's limits in it."""

from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.rpc import SHAPES, Stand, Text, eventually


async def seen_by_handler(stand: Stand, look: Any, name: str = "OneOne", **more: Any) -> Any:
    """Calls, and returns what `look` finds in the context."""
    found: list[Any] = []

    async def on_message(_: Text, context: Any) -> None:
        found.append(look(context))

    stand.probe.on_message = on_message
    assert (await stand.client.outcome(name, "a", **more))[0] is grpc.StatusCode.OK
    return found[0]


async def test_the_peer_is_the_one_of_grpc(stand: Stand) -> None:
    assert (await seen_by_handler(stand, lambda c: c.peer())).startswith("ipv4:127.0.0.1:")


async def test_a_plaintext_peer_has_no_identity(stand: Stand) -> None:
    look = lambda c: (c.peer_identities(), c.peer_identity_key())  # noqa: E731 - one expression
    assert await seen_by_handler(stand, look) == (None, None)
    context = await seen_by_handler(stand, lambda c: c.auth_context())
    assert b"x509_common_name" not in str(context).encode()


async def test_the_time_that_remains_is_the_caller_s(stand: Stand) -> None:
    remaining = await seen_by_handler(stand, lambda c: c.time_remaining(), timeout=20.0)
    assert 15 < remaining < 21  # gRPC rounds a time-out up


async def test_a_call_under_way_is_neither_done_nor_cancelled(stand: Stand) -> None:
    assert await seen_by_handler(stand, lambda c: (c.done(), c.cancelled())) == (False, False)


async def test_a_callback_is_called_when_the_call_is_done(stand: Stand) -> None:
    done: list[object] = []
    await seen_by_handler(stand, lambda c: c.add_done_callback(done.append))
    await eventually(lambda: done)


async def test_initial_metadata_arrive_before_the_answer(stand: Stand) -> None:
    async def send(_: Text, context: Any) -> None:
        await context.send_initial_metadata((("x-first", "1"),))

    stand.probe.on_message = send
    call = stand.client.call("OneOne", "a")
    assert ("x-first", "1") in tuple(await call.initial_metadata())
    await call


@pytest.mark.parametrize("name", SHAPES)
async def test_answers_can_be_compressed_or_not(stand: Stand, name: str) -> None:
    async def compress(_: Text, context: Any) -> None:
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()

    stand.probe.on_message = compress
    assert (await stand.client.outcome(name, "a"))[0] is grpc.StatusCode.OK


async def test_a_servicer_without_parser_gets_bytes(open_stand: Any) -> None:
    from gatehouse.rpc import Service

    async def echo(request: bytes, context: object) -> bytes:
        return request + b"!"

    def add(_: object, server: Any) -> None:
        server.add_registered_method_handlers(
            "probe.v1.Raw",
            {"Call": grpc.unary_unary_rpc_method_handler(echo)},
        )

    async with open_stand(services=[Service(add, object())]) as stand:
        stub: Any = stand.client.channel.unary_unary("/probe.v1.Raw/Call")
        assert await stub(b"a", metadata=(("authorization", "Bearer good"),)) == b"a!"


async def test_a_bidi_handler_can_read_and_write_by_hand(open_stand: Any) -> None:
    from gatehouse.rpc import Service

    async def chat(_: object, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(Text(value=request.value + "!"))

    def add(_: object, server: Any) -> None:
        handler = grpc.stream_stream_rpc_method_handler(chat, Text.FromString, Text.SerializeToString)
        server.add_registered_method_handlers("probe.v1.Chat", {"Talk": handler})

    async with open_stand(services=[Service(add, object())]) as stand:
        stub: Any = stand.client.channel.stream_stream(
            "/probe.v1.Chat/Talk", Text.SerializeToString, Text.FromString
        )
        call = stub([Text(value="a"), Text(value="b")], metadata=(("authorization", "Bearer good"),))
        assert [m.value async for m in call] == ["a!", "b!"]


async def test_a_request_that_arrives_is_counted_in_bytes(stand: Stand) -> None:
    await stand.client.outcome("ManyMany", "a", "b")
    line = await stand.line()
    assert (line["bytes_received"], line["bytes_sent"]) == (6, 6)
