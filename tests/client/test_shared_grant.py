"""A token that processes share, and logins without a refresh token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from gatehouse.client import (
    ClientCredentials,
    FileStore,
    Login,
    LoginRequired,
    LoginStore,
    MemoryStore,
    OAuthClient,
    Refresh,
    SharedGrant,
    TokenManager,
    TokenResponse,
)
from gatehouse.oauth import IssuerUnavailable
from tests.support.loopback_http import Reply
from tests.support.oauth_issuers import LoopbackIssuer, ManualTime


def shared(http: httpx.AsyncClient, idp: LoopbackIssuer, store: LoginStore, time: ManualTime) -> SharedGrant:
    client = OAuthClient(http, "worker", token_endpoint=idp.url("token"))
    return SharedGrant(ClientCredentials(client), store, clock=time.clock)


def expired(**more: str) -> Login:
    return Login("", "old", 0.0, **more)


async def test_callers_of_one_store_send_one_request(
    http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "token.json")
    store.save(expired(client_secret="secret"))
    managers = [TokenManager(shared(http, idp, store, manual_time)) for _ in range(8)]
    tokens = await asyncio.gather(*(manager.token() for manager in managers))
    assert (len(set(tokens)), idp.request_count("token")) == (1, 1)
    kept = store.load()
    assert kept is not None
    assert (kept.access_token, kept.client_secret) == (tokens[0], "secret")
    manual_time.advance(250.0)  # less than a minute remains of 300 s
    assert (await shared(http, idp, store, manual_time).request()).access_token != tokens[0]


async def test_rejected_token_is_replaced(
    http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    store = MemoryStore()
    store.save(expired())
    manager = TokenManager(shared(http, idp, store, manual_time))
    first = await manager.token()
    manager.invalidate(first)
    assert await manager.token() != first


async def test_store_without_a_login_is_named(
    http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    with pytest.raises(LoginRequired, match="no login"):
        await shared(http, idp, MemoryStore(), manual_time).request()
    assert idp.request_count("token") == 0


async def test_login_without_a_refresh_token_ends_with_its_access_token(
    http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    store = MemoryStore()
    store.save(Login.of(TokenResponse("access", "Bearer", 300.0), manual_time.clock()))
    client = OAuthClient(http, "console", token_endpoint=idp.url("token"))
    refresh = Refresh(client, store, clock=manual_time.clock)
    assert (await refresh.request()).access_token == "access"
    manual_time.advance(300.0)
    with pytest.raises(LoginRequired, match="ended"):
        await refresh.request()
    assert (store.load(), idp.request_count("token")) == (None, 0)


@pytest.mark.parametrize("is_user", [True, False])
async def test_last_token_is_used_while_the_issuer_is_unavailable(
    is_user: bool, http: httpx.AsyncClient, idp: LoopbackIssuer, manual_time: ManualTime
) -> None:
    """Also by a new process, whose manager has none."""
    store = MemoryStore()
    store.save(Login("refresh", "access", manual_time.clock() + 30.0))
    client = OAuthClient(http, "console", token_endpoint=idp.url("token"))
    idp.answer("token", Reply(status=503))

    async def request() -> TokenResponse:
        grant = Refresh(client, store, clock=manual_time.clock)
        return await (grant if is_user else shared(http, idp, store, manual_time)).request()

    response = await request()
    assert (response.access_token, response.expires_in) == ("access", 30.0)
    assert idp.request_count("token") == 1
    manual_time.advance(29.0)
    with pytest.raises(IssuerUnavailable):
        await request()
