"""Channels with token managers while the issuer fails, lies or is asked by many at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from gatehouse.background import BackgroundLoop
from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    MemoryStore,
    OAuthClient,
    Refresh,
    TokenManager,
    TokenResponse,
    connect,
    create_oauth2_channel,
)
from gatehouse.oauth import IssuerUnavailable
from gatehouse.settings import TlsSettings
from tests.support.eventually import eventually
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import METADATA, LoopbackIssuer, ManualTime
from tests.support.rpc import PROBE, Client, Env, Text

PLAIN = TlsSettings(plaintext=True)
GOOD = Reply({"access_token": "good", "token_type": "Bearer", "expires_in": 300})
CALLS = 200


@pytest.fixture
def client(http: httpx.AsyncClient, idp: LoopbackIssuer) -> OAuthClient:
    idp.answer("token", GOOD)
    return OAuthClient(http, "worker", ClientSecretBasic("canary-secret"), issuer=idp.issuer)


@pytest.fixture
async def manager(client: OAuthClient, manual_time: ManualTime) -> AsyncIterator[TokenManager]:
    tokens = TokenManager(ClientCredentials(client), monotonic=manual_time.monotonic)
    yield tokens
    await tokens.aclose()


@pytest.fixture
async def channel(env: Env, manager: TokenManager) -> AsyncIterator[grpc.aio.Channel]:
    async with connect(f"127.0.0.1:{env.port}", tls=PLAIN, tokens=manager) as opened:
        yield opened


async def outcome(channel: grpc.aio.Channel, **more: Any) -> tuple[grpc.StatusCode, str]:
    call = Client(channel).call("Unary", "a", token=None, **more)
    return await call.code(), await call.details()


class SyncClient(ExitStack):
    """A synchronous channel with a token manager on a background loop."""

    def __init__(self, env: Env, idp: LoopbackIssuer, time: ManualTime) -> None:
        super().__init__()
        self.background = self.enter_context(BackgroundLoop())

        async def open_http() -> httpx.AsyncClient:
            return httpx.AsyncClient(trust_env=False)

        http = self.background.run(open_http())
        self.callback(lambda: self.background.run(http.aclose()))
        client = OAuthClient(http, "worker", ClientSecretBasic("secret"), issuer=idp.issuer)
        tokens = TokenManager(ClientCredentials(client), monotonic=time.monotonic)
        channel = self.enter_context(
            create_oauth2_channel(f"127.0.0.1:{env.port}", tokens, background=self.background, tls=PLAIN)
        )
        self._stub: Any = channel.unary_unary(f"/{PROBE}/Unary", Text.SerializeToString, Text.FromString)

    def call(self, timeout: float = 60.0) -> str:
        return str(self._stub(Text(value="a"), timeout=timeout).value)


async def test_first_calls_of_many_tasks_share_one_token_request(
    env: Env, channel: grpc.aio.Channel, idp: LoopbackIssuer
) -> None:
    idp.hold("token")
    calls = [asyncio.create_task(outcome(channel, timeout=60.0)) for _ in range(CALLS)]
    await eventually(lambda: idp.request_count("token"))
    idp.release("token")
    assert {code for code, _ in await asyncio.gather(*calls)} == {grpc.StatusCode.OK}
    assert idp.request_count("token") == 1
    assert len(env.verifier.asked) == CALLS


async def test_first_calls_of_many_threads_share_one_token_request(
    env: Env, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    idp.answer("token", GOOD)
    idp.hold("token")
    loop = asyncio.get_running_loop()
    with SyncClient(env, idp, manual_time) as client, ThreadPoolExecutor(CALLS) as pool:
        calls = [loop.run_in_executor(pool, client.call) for _ in range(CALLS)]
        await eventually(lambda: idp.request_count("token"))
        idp.release("token")
        assert set(await asyncio.gather(*calls)) == {"a"}
    assert idp.request_count("token") == 1


async def test_synchronous_call_with_a_fresh_token_does_not_wait_for_the_background_loop(
    env: Env, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    idp.answer("token", GOOD)
    with SyncClient(env, idp, manual_time) as client:
        assert await asyncio.to_thread(client.call) == "a"
        blocked, release = threading.Event(), threading.Event()

        async def block() -> None:
            blocked.set()
            release.wait()

        client.background.submit(block())
        assert await asyncio.to_thread(blocked.wait, 60)
        try:
            assert await asyncio.to_thread(client.call, timeout=10) == "a"
        finally:
            release.set()
        manual_time.advance(400.0)
        assert await asyncio.to_thread(client.call) == "a"
    assert idp.request_count("token") == 2


async def test_stalled_token_endpoint_ends_the_call_at_its_deadline_and_not_the_next_one(
    env: Env, channel: grpc.aio.Channel, idp: LoopbackIssuer
) -> None:
    idp.hold("token")
    assert (await outcome(channel, timeout=0.2))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert env.verifier.asked == []
    idp.release("token")
    assert (await outcome(channel))[0] is grpc.StatusCode.OK


LIES = {
    "redirect": Reply(status=307, headers={"location": "http://127.0.0.1:1/canary"}),
    "page": Reply(b"<html>canary", headers={"content-type": "text/html"}),
    "list": Reply(["canary"]),
    "nothing": Reply(status=204),
    "no token": Reply({"token_type": "Bearer", "canary": 1}),
    "token with a line break": Reply({"access_token": "canary\r\nx: y", "token_type": "Bearer"}),
    "other type": Reply({"access_token": "canary", "token_type": "DPoP"}),
    "success and error": Reply({"error": "canary"}),
    "too large": Reply({"access_token": "canary" * 20_000, "token_type": "Bearer"}),
}


@pytest.mark.parametrize("reply", LIES.values(), ids=LIES)
async def test_lying_token_endpoint_fails_the_call_without_sending_it(
    reply: Reply, env: Env, channel: grpc.aio.Channel, idp: LoopbackIssuer
) -> None:
    idp.answer("token", reply)
    code, details = await outcome(channel)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details.startswith("no access token: ")
    assert "canary" not in details
    assert env.lines() == []


async def test_token_longer_than_servers_accept_fails_the_call_and_no_other(
    env: Env, channel: grpc.aio.Channel, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    idp.answer("token", Reply({"access_token": "a" * 60_000, "token_type": "Bearer"}))
    assert (await outcome(channel))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert env.verifier.asked == []
    idp.answer("token", GOOD)
    manual_time.advance(60.0)
    assert (await outcome(channel))[0] is grpc.StatusCode.OK


async def test_endpoint_that_returns_only_expired_tokens_is_not_flooded(
    env: Env, channel: grpc.aio.Channel, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    """The response promises a lifetime, but services find each token expired."""

    def reply(_: Request) -> Reply:
        return Reply({"access_token": f"expired-{idp.request_count('token')}", "token_type": "Bearer"})

    idp.answer("token", reply)
    assert {code for code, _ in [await outcome(channel) for _ in range(20)]} == {
        grpc.StatusCode.UNAUTHENTICATED
    }
    assert idp.request_count("token") == 2
    idp.answer("token", GOOD)
    manual_time.advance(30.0)
    assert (await outcome(channel))[0] is grpc.StatusCode.OK


async def test_metadata_of_another_issuer_gets_no_secret(
    manager: TokenManager, idp: LoopbackIssuer, other_idp: LoopbackIssuer
) -> None:
    idp.answer(METADATA, Reply(other_idp.metadata()))
    with pytest.raises(IssuerUnavailable, match="discovery_issuer_mismatch"):
        await manager.token()
    assert [request.path for request in other_idp.requests] == []


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0])
async def test_step_of_the_wall_clock_neither_drops_a_token_nor_keeps_a_rejected_one(
    step: float, client: OAuthClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    """A stored login has the end of its token in wall-clock time; a manager uses a monotonic clock."""
    wall = 0.0
    store = MemoryStore()

    def refresh() -> Refresh:
        return Refresh(client, store, clock=lambda: time.time() + wall)

    await refresh().remember(TokenResponse("first", "Bearer", 300.0, refresh_token="refresh"))
    running = TokenManager(refresh(), monotonic=manual_time.monotonic)
    assert await running.token() == "first"
    wall = step
    assert await running.token() == "first"
    assert idp.request_count("token") == 0

    started = TokenManager(refresh(), monotonic=manual_time.monotonic)
    assert await started.token() == ("first" if step < 0 else "good")
    started.invalidate("first")
    assert await started.token() == "good"
    assert idp.request_count("token") == 1
