"""Channels of clients, against real servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.trace import StatusCode

from gatehouse import domain
from gatehouse.client import connect
from gatehouse.oauth import InvalidToken, IssuerUnavailable, TokenRequestFailed
from gatehouse.settings import TlsSettings
from tests.support.certificates import Authority
from tests.support.environment import PROXIES
from tests.support.eventually import eventually
from tests.support.rpc import METHODS, PROBE, Client, Env, Text, open_env, principal
from tests.support.telemetry import Spans
from tests.support.tokens import Tokens

PLAIN = TlsSettings(plaintext=True)


@pytest.fixture
async def tls_env(authority: Authority) -> AsyncIterator[Env]:
    certificate, key = authority.write(*authority.issue())
    async with open_env(tls=TlsSettings(certificate_file=certificate, private_key_file=key)) as env:
        yield env


def to(env: Env, tokens: Tokens | None = None, **more: Any) -> grpc.aio.Channel:
    return connect(f"127.0.0.1:{env.port}", tls=PLAIN, tokens=tokens, **more)


async def outcome(channel: grpc.aio.Channel, name: str = "Unary", **more: Any) -> Any:
    return await Client(channel).outcome(name, "a", token=None, **more)


@pytest.mark.parametrize("name", METHODS)
async def test_token_is_sent_with_every_call_over_plaintext_on_loopback(env: Env, name: str) -> None:
    async with to(env, Tokens("good")) as channel:
        assert (await outcome(channel, name))[0] is grpc.StatusCode.OK
    assert env.verifier.asked == [("good", False)]


@pytest.mark.parametrize("name", METHODS)
async def test_token_is_sent_with_every_call_over_tls(tls_env: Env, authority: Authority, name: str) -> None:
    tls = TlsSettings(ca_file=authority.ca_file)
    async with connect(f"localhost:{tls_env.port}", tls=tls, tokens=Tokens("good")) as channel:
        assert (await outcome(channel, name))[0] is grpc.StatusCode.OK
    assert tls_env.verifier.asked == [("good", False)]


async def rejection(channel: grpc.aio.Channel, name: str) -> grpc.StatusCode:
    """Return the status of a call that is rejected before it sends anything; see support/sync_calls.py."""
    if name not in {"ClientStream", "BidiStream"}:
        code: grpc.StatusCode = (await outcome(channel, name))[0]
        return code
    open_call: Any = channel.stream_unary if name == "ClientStream" else channel.stream_stream
    call = open_call(f"/{PROBE}/{name}", Text.SerializeToString, Text.FromString)(timeout=20)
    return await call.code()  # type: ignore[no-any-return] # of a stub without types


@pytest.mark.parametrize("name", METHODS)
async def test_channel_without_a_token_source_sends_no_token(env: Env, name: str) -> None:
    async with to(env) as channel:
        assert await rejection(channel, name) is grpc.StatusCode.UNAUTHENTICATED
    assert env.verifier.asked == []
    assert len(env.lines()) == 1


async def test_metadata_of_the_caller_are_sent_with_the_token(env: Env) -> None:
    async with to(env, Tokens("good")) as channel:
        await outcome(channel, metadata=(("x-request-id", "mine"),))
    assert (await env.line())["request_id"] == "mine"


async def test_rejected_unary_call_is_sent_once_more_with_another_token(env: Env) -> None:
    tokens = Tokens("revoked", "good")
    async with to(env, tokens) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.OK
    assert env.verifier.asked == [("revoked", False), ("good", False)]
    assert tokens.rejected == ["revoked"]


async def test_rejected_call_is_not_sent_a_third_time(env: Env) -> None:
    async with to(env, Tokens("revoked", "also revoked", "good")) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert len(env.lines()) == 2


async def test_rejected_call_is_not_sent_again_with_the_same_token(env: Env) -> None:
    async with to(env, Tokens("revoked")) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert len(env.lines()) == 1


async def test_call_without_permission_is_not_sent_again(env: Env) -> None:
    tokens = Tokens("weak", "good")
    async with to(env, tokens) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert tokens.rejected == []


async def test_concurrent_rejected_calls_invalidate_only_the_rejected_token(env: Env) -> None:
    """A call that ends late with the old token must not invalidate the new one."""
    tokens = Tokens("revoked", "good", "never needed")
    async with to(env, tokens) as channel:
        codes = [code for code, _, _ in await asyncio.gather(*(outcome(channel) for _ in range(20)))]
    assert set(codes) == {grpc.StatusCode.OK}
    assert set(tokens.rejected) == {"revoked"}


@pytest.mark.parametrize("name", ["ServerStream", "ClientStream", "BidiStream"])
async def test_rejected_stream_invalidates_its_token_for_the_next_call(env: Env, name: str) -> None:
    tokens = Tokens("revoked", "good")
    async with to(env, tokens) as channel:
        assert await rejection(channel, name) is grpc.StatusCode.UNAUTHENTICATED
        await eventually(lambda: tokens.rejected == ["revoked"])
        assert (await outcome(channel, name))[0] is grpc.StatusCode.OK


FAILURES: list[tuple[BaseException, str]] = [
    (IssuerUnavailable("token_endpoint_busy"), "token_endpoint_busy"),
    (TokenRequestFailed("invalid_client"), "invalid_client"),
    (InvalidToken("token_expired"), "token_expired"),
    (ValueError("canary-secret"), "ValueError"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES, ids=str)
@pytest.mark.parametrize("name", METHODS)
async def test_failing_token_source_is_an_error_without_a_secret(
    env: Env, spans: Spans, name: str, error: BaseException, reason: str
) -> None:
    tokens = Tokens("good")
    tokens.error = error
    async with to(env, tokens, tracer=spans.tracer) as channel:
        call = Client(channel).call(name, "a", token=None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _consume(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == f"no access token: {reason}"
    assert "canary" not in f"{caught.value!r} {spans.as_text()}"
    assert caught.value.__suppress_context__
    # Nothing was sent, and the source was asked once.
    assert (env.lines(), tokens.asked) == ([], 1)
    assert [span.status.status_code for span in spans.finished()] == [StatusCode.ERROR]


@pytest.mark.parametrize("name", METHODS)
async def test_slow_token_source_is_bounded_by_the_deadline(env: Env, name: str) -> None:
    tokens = Tokens("good")
    tokens.gate = asyncio.Event()
    async with to(env, tokens) as channel, asyncio.timeout(10):
        assert (await outcome(channel, name, timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert env.lines() == []


async def test_second_attempt_has_the_rest_of_the_deadline(env: Env) -> None:
    tokens = Tokens("revoked", "good")
    remaining: list[float] = []

    async def look(_: object, context: Any) -> None:
        remaining.append(context.time_remaining())

    async def take_time(token: str) -> None:
        if token == "revoked":
            ends_at = time.monotonic() + 1.5
            await eventually(lambda: time.monotonic() > ends_at)

    env.verifier.before = take_time
    env.probe.on_message = look
    async with to(env, tokens) as channel:
        assert (await outcome(channel, timeout=20.0))[0] is grpc.StatusCode.OK
    assert remaining[0] < 19.5


async def test_unary_call_without_a_deadline_has_that_of_the_channel(env: Env) -> None:
    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    env.probe.on_message = wait
    async with to(env, Tokens("good"), deadline=0.2) as channel, asyncio.timeout(10):
        assert (await outcome(channel, timeout=None))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("name", ["ServerStream", "ClientStream", "BidiStream"])
async def test_stream_without_a_deadline_has_none(env: Env, name: str) -> None:
    seen: list[float | None] = []

    async def look(_: object, context: Any) -> None:
        seen.append(context.time_remaining())

    env.probe.on_message = look
    async with to(env, Tokens("good"), deadline=0.001) as channel:
        assert (await outcome(channel, name, timeout=None))[0] is grpc.StatusCode.OK
    assert seen == [None]


@pytest.mark.parametrize("name", METHODS)
async def test_cancelled_call_cancels_its_handler(env: Env, spans: Spans, name: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    env.probe.on_message = wait
    async with to(env, Tokens("good"), tracer=spans.tracer) as channel, asyncio.timeout(20):
        calling = asyncio.create_task(_consume(Client(channel).call(name, "a", token=None)))
        await begun.wait()
        calling.cancel()
        await ended.wait()
        await asyncio.wait({calling})
        assert (await env.line())["code"] == "CANCELLED"
        await eventually(spans.finished)
    (span,) = spans.finished()
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def _consume(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


@pytest.mark.parametrize("name", METHODS)
async def test_call_cancelled_while_waiting_for_its_token_is_not_sent(
    env: Env, spans: Spans, name: str
) -> None:
    tokens = Tokens("good")
    tokens.gate = asyncio.Event()
    async with to(env, tokens, tracer=spans.tracer) as channel, asyncio.timeout(20):
        call = Client(channel).call(name, "a", token=None)
        calling = asyncio.create_task(_consume(call))
        await eventually(lambda: tokens.asked)
        call.cancel()
        await asyncio.wait({calling})
        await eventually(spans.finished)
    assert env.lines() == []


async def test_unary_call_is_retried_while_the_server_is_unavailable(env: Env) -> None:
    count = 0

    async def fail_twice(*_: object) -> None:
        nonlocal count
        count += 1
        if count < 3:
            raise domain.Unavailable("DATABASE_AWAY", "try again")

    env.probe.on_message = fail_twice
    async with to(env, Tokens("good")) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.OK
    assert [line["code"] for line in env.lines()] == ["UNAVAILABLE", "UNAVAILABLE", "OK"]


async def test_call_is_tried_four_times_at_most(env: Env) -> None:
    async def fail(*_: object) -> None:
        raise domain.Unavailable("DATABASE_AWAY", "try again")

    env.probe.on_message = fail
    async with to(env, Tokens("good")) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.UNAVAILABLE
    assert len(env.lines()) == 4


@pytest.mark.parametrize(
    "error",
    [
        domain.Aborted("ETAG_MISMATCH", "read it again"),
        domain.FailedPrecondition("LAST_ADMIN", "one must stay"),
        ValueError("bug"),
    ],
)
async def test_other_status_codes_are_not_retried(env: Env, error: Exception) -> None:
    async def fail(*_: object) -> None:
        raise error

    env.probe.on_message = fail
    async with to(env, Tokens("good")) as channel:
        assert (await outcome(channel))[0] is not grpc.StatusCode.OK
    assert len(env.lines()) == 1


async def test_calls_are_balanced_over_the_backends() -> None:
    async with open_env() as first, open_env() as second:
        target = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
        async with connect(target, tls=PLAIN, tokens=Tokens("good")) as channel:
            async with asyncio.timeout(20):
                while not (first.lines() and second.lines()):
                    await outcome(channel)
            before = len(first.lines()), len(second.lines())
            for _ in range(20):
                assert (await outcome(channel))[0] is grpc.StatusCode.OK
        after = len(first.lines()), len(second.lines())
    assert [a - b for a, b in zip(after, before, strict=True)] == [10, 10]


async def test_no_call_fails_when_a_backend_stops() -> None:
    async with open_env() as first, open_env() as second:
        target = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
        async with connect(target, tls=PLAIN, tokens=Tokens("good")) as channel:
            for _ in range(4):
                assert (await outcome(channel))[0] is grpc.StatusCode.OK
            await first.server.stop(10)
            for _ in range(20):
                assert (await outcome(channel))[0] is grpc.StatusCode.OK


async def test_message_above_the_limit_is_not_sent(env: Env) -> None:
    async with to(env, Tokens("good"), max_message_bytes=1024) as channel:
        code, _, _ = await Client(channel).outcome("Unary", "x" * 2000, token=None)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert env.probe.parsed == []


async def test_token_is_sent_over_plaintext_beyond_loopback_if_allowed() -> None:
    tls = TlsSettings(plaintext=True, plaintext_beyond_loopback=True)
    async with open_env(host="0.0.0.0", tls=tls) as env:
        both = TlsSettings(plaintext=True, plaintext_beyond_loopback=True)
        async with connect(f"0.0.0.0:{env.port}", tls=both, tokens=Tokens("good")) as channel:
            assert (await outcome(channel))[0] is grpc.StatusCode.OK


async def test_principal_can_change_between_calls_of_one_channel(env: Env) -> None:
    env.verifier.answers["second"] = principal("use:probe", subject="subject-of-bob")
    tokens = Tokens("good", "second")
    async with to(env, tokens) as channel:
        await outcome(channel)
        tokens.invalidate("good")
        await outcome(channel)
    assert [line["subject"] for line in env.lines()] == ["subject-of-alice", "subject-of-bob"]


async def test_proxy_of_the_environment_is_not_used(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, proxy in PROXIES.items():
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    async with to(env, Tokens("good")) as channel:
        assert (await outcome(channel))[0] is grpc.StatusCode.OK
