"""The token sources of `gatehouse.client` at the issuer."""

from __future__ import annotations

import asyncio

from gatehouse.client import MemoryStore, OAuthClient, Refresh, TokenManager, login_in_browser
from tests.issuers.idp import CONSOLE, Browser, Idp, claims_of


async def test_user_logs_in_with_the_browser_and_stays_logged_in(idp: Idp, browser: Browser) -> None:
    client = OAuthClient(idp.http, CONSOLE, issuer=idp.issuer)
    opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    login = asyncio.create_task(login_in_browser(client, "openid read:users", open_browser=opened.set_result))
    page = await browser.request("GET", await opened)
    redirect = await browser.submit(page, username="alice", password="alice")
    assert (await idp.http.get(redirect.headers["location"])).status_code == 200
    refresh = Refresh(client, MemoryStore())
    await refresh.remember(await login)
    managers = [TokenManager(refresh) for _ in range(8)]
    first = set(await asyncio.gather(*(manager.token() for manager in managers)))
    for manager in managers:
        for token in first:
            manager.invalidate(token)
    for token in {*first, *await asyncio.gather(*(manager.token() for manager in managers))}:
        assert claims_of(token)["azp"] == CONSOLE
        assert await idp.is_active(token)
