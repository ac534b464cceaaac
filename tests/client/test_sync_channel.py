"""Channels of synchronous clients, and call credentials for channels of any kind, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider

from gatehouse.background import BackgroundLoop
from gatehouse.client import TokenCallCredentials, create_oauth2_channel
from gatehouse.oauth import TokenRequestFailed
from gatehouse.rpc import PlaintextRefused
from gatehouse.settings import TlsSettings
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.rpc import PROBE, Env, Text, open_env
from tests.support.tokens import Tokens

NAMES = ["Unary", "ServerStream", "ClientStream", "BidiStream"]
PLAIN = TlsSettings(plaintext=True)


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    """The event loop of the token source."""
    with BackgroundLoop() as running:
        yield running


@pytest.fixture
async def tls_env(authority: Authority) -> AsyncIterator[Env]:
    """The server with the probe service, over TLS."""
    certificate, key = authority.write(*authority.issue())
    async with open_env(tls=TlsSettings(certificate_file=certificate, private_key_file=key)) as env:
        yield env


@pytest.fixture
def to(background: BackgroundLoop) -> Callable[..., grpc.Channel]:
    """Open a synchronous channel to a server."""

    def open_channel(env: Env, tokens: Tokens, **more: Any) -> grpc.Channel:
        return create_oauth2_channel(
            f"127.0.0.1:{env.port}", tokens, **{"background": background, "tls": PLAIN} | more
        )

    return open_channel


def invoke(channel: grpc.Channel, name: str = "Unary", **more: Any) -> grpc.StatusCode:
    """Make a call with one request and return its code."""
    kinds = {
        "Unary": channel.unary_unary,
        "ServerStream": channel.unary_stream,
        "ClientStream": channel.stream_unary,
        "BidiStream": channel.stream_stream,
    }
    stub: Any = kinds[name](f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString)
    request = Text(value="a")
    try:
        answer = stub(iter([request]) if name in {"ClientStream", "BidiStream"} else request, **more)
        if name in {"ServerStream", "BidiStream"}:
            assert {response.value for response in answer} == {"a"}
        else:
            assert answer.value == "a"
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


async def outcome(channel: grpc.Channel, name: str = "Unary", **more: Any) -> grpc.StatusCode:
    """Make a call in another thread, as the server runs in the event loop of this one."""
    return await asyncio.to_thread(invoke, channel, name, **more)


@pytest.mark.parametrize("name", NAMES)
async def test_token_is_sent_over_plaintext_on_loopback(env: Env, to: Any, name: str) -> None:
    with to(env, Tokens("good")) as channel:
        assert await outcome(channel, name) is grpc.StatusCode.OK
    assert env.verifier.asked == [("good", False)]


@pytest.mark.parametrize("name", NAMES)
async def test_token_is_sent_over_tls(tls_env: Env, authority: Authority, to: Any, name: str) -> None:
    with to(tls_env, Tokens("good"), tls=TlsSettings(ca_file=authority.ca_file)) as channel:
        assert await outcome(channel, name) is grpc.StatusCode.OK
    assert tls_env.verifier.asked == [("good", False)]


def test_plaintext_beyond_loopback_is_refused(background: BackgroundLoop) -> None:
    with pytest.raises(PlaintextRefused, match=r"plaintext to users\.test:50051"):
        create_oauth2_channel("users.test:50051", Tokens("good"), background=background, tls=PLAIN)


async def test_rejected_unary_call_is_sent_once_more_with_another_token(env: Env, to: Any) -> None:
    tokens = Tokens("revoked", "good")
    with to(env, tokens) as channel:
        assert await outcome(channel) is grpc.StatusCode.OK
    assert env.verifier.asked == [("revoked", False), ("good", False)]
    assert tokens.rejected == ["revoked"]


async def test_rejected_call_is_not_sent_again_with_the_same_token_or_a_third_time(env: Env, to: Any) -> None:
    with to(env, Tokens("revoked")) as channel:
        assert await outcome(channel) is grpc.StatusCode.UNAUTHENTICATED
    assert len(env.lines()) == 1
    with to(env, Tokens("revoked", "also revoked", "good")) as channel:
        assert await outcome(channel) is grpc.StatusCode.UNAUTHENTICATED
    assert len(env.lines()) == 3


@pytest.mark.parametrize("name", NAMES[1:])
async def test_rejected_stream_is_not_sent_again_and_its_token_not_used_again(
    env: Env, to: Any, name: str
) -> None:
    tokens = Tokens("revoked", "good")
    with to(env, tokens) as channel:
        assert await outcome(channel, name) is grpc.StatusCode.UNAUTHENTICATED
        await eventually(lambda: tokens.rejected == ["revoked"])
        assert await outcome(channel, name) is grpc.StatusCode.OK
    assert [token for token, _ in env.verifier.asked] == ["revoked", "good"]


@pytest.mark.parametrize("name", NAMES)
async def test_call_without_a_token_is_not_sent(env: Env, to: Any, name: str) -> None:
    tokens = Tokens("good")
    tokens.error = TokenRequestFailed("invalid_client")
    with to(env, tokens) as channel:
        assert await outcome(channel, name) is grpc.StatusCode.UNAVAILABLE
    assert env.lines() == []


async def test_reason_of_a_missing_token_holds_no_text_of_foreign_errors(env: Env, to: Any) -> None:
    tokens = Tokens("good")
    tokens.error = ValueError("canary")

    def call(channel: grpc.Channel) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{PROBE}/Unary")(b"")
        return str(caught.value)

    with to(env, tokens) as channel:
        assert await asyncio.to_thread(call, channel) == "no access token: ValueError"


@pytest.mark.parametrize("name", NAMES)
async def test_deadline_includes_the_wait_for_the_token(
    env: Env, to: Any, background: BackgroundLoop, name: str
) -> None:
    tokens = Tokens("good")
    tokens.gate = asyncio.Event()
    with to(env, tokens) as channel:
        assert await outcome(channel, name, timeout=0.1) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert env.lines() == []


async def test_unary_call_has_a_deadline_by_default(env: Env, to: Any) -> None:
    async def wait_forever(*_: object) -> None:
        await asyncio.Event().wait()

    env.probe.on_message = wait_forever
    with to(env, Tokens("good"), deadline=0.2) as channel:
        assert await outcome(channel) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_trace_context_of_the_caller_is_sent(env: Env, to: Any) -> None:
    seen: list[str] = []

    async def look(_: object, context: Any) -> None:
        seen.append(dict(context.invocation_metadata()).get("traceparent", ""))

    env.probe.on_message = look
    with to(env, Tokens("good")) as channel:
        with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
            await outcome(channel)
        assert f"{span.get_span_context().trace_id:032x}" in seen[0]


async def test_two_hundred_calls_at_once_are_answered(env: Env, to: Any) -> None:
    with to(env, Tokens("good")) as channel:
        codes = await asyncio.gather(*(outcome(channel) for _ in range(200)))
    assert set(codes) == {grpc.StatusCode.OK}


def composite(authority: Authority, plugin: TokenCallCredentials) -> grpc.ChannelCredentials:
    """Return the credentials of a channel that sends the token of a plugin with each call."""
    tls = grpc.ssl_channel_credentials(authority.ca_file.read_bytes())
    return grpc.composite_channel_credentials(tls, grpc.metadata_call_credentials(plugin))


async def test_call_credentials_work_in_an_asyncio_program(tls_env: Env, authority: Authority) -> None:
    plugin = TokenCallCredentials(Tokens("good"), asyncio.get_running_loop())
    async with grpc.aio.secure_channel(f"localhost:{tls_env.port}", composite(authority, plugin)) as channel:
        stub: Any = channel.unary_unary(f"/{PROBE}/Unary", Text.SerializeToString, Text.FromString)
        answers = await asyncio.gather(*(stub(Text(value="a"), timeout=30) for _ in range(50)))
    assert {answer.value for answer in answers} == {"a"}


async def test_call_credentials_work_in_many_threads(
    tls_env: Env, authority: Authority, background: BackgroundLoop
) -> None:
    plugin = TokenCallCredentials(Tokens("good"), background)
    with grpc.secure_channel(f"localhost:{tls_env.port}", composite(authority, plugin)) as channel:
        codes = await asyncio.gather(*(outcome(channel, name, timeout=30) for name in NAMES * 20))
    assert set(codes) == {grpc.StatusCode.OK}


async def test_call_credentials_without_a_token_fail_the_call_with_the_reason(
    tls_env: Env, authority: Authority
) -> None:
    tokens = Tokens("good")
    tokens.error = ValueError("canary")
    plugin = TokenCallCredentials(tokens, asyncio.get_running_loop())
    async with grpc.aio.secure_channel(f"localhost:{tls_env.port}", composite(authority, plugin)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{PROBE}/Unary")(b"", timeout=30)
    assert "no access token: ValueError" in str(caught.value.details())
    assert "canary" not in str(caught.value.details())


async def test_call_credentials_of_a_loop_that_has_ended_fail_the_call(
    tls_env: Env, authority: Authority
) -> None:
    with BackgroundLoop() as background:
        plugin = TokenCallCredentials(Tokens("good"), background)
    async with grpc.aio.secure_channel(f"localhost:{tls_env.port}", composite(authority, plugin)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{PROBE}/Unary")(b"", timeout=30)
    assert "the event loop of the token source has ended" in str(caught.value.details())
