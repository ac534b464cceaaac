"""The console at the development issuer, and browsers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile
from gatehouse_console.app import open_app
from gatehouse_console.config import Link, Origin
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.support.issuer import LiveIssuer
from tests.support.loopback_http import Reply, Request
from tests.support.oauth_issuers import LoopbackIssuer

ORIGIN = "http://127.0.0.1:8090"
OpenBrowser = Callable[[], Browser]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closed after the test."""
    async with AsyncExitStack() as stack:
        yield stack


async def open_console(
    stack: AsyncExitStack,
    profile: Profile,
    origin: str = ORIGIN,
    links: Sequence[Link] = (),
    monotonic: Callable[[], float] = time.monotonic,
) -> OpenBrowser:
    """Open a console; what is returned opens browsers."""
    app = await stack.enter_async_context(open_app(profile, Origin.parse(origin), links, monotonic=monotonic))

    def open_browser() -> Browser:
        browser = Browser(app, origin)
        stack.push_async_callback(browser.aclose)
        return browser

    return open_browser


@pytest.fixture
def profile(issuer: LiveIssuer) -> Profile:
    """The development issuer, and services that are not there."""
    return Profile(
        issuer=issuer.issuer,
        targets=dict.fromkeys(SERVICES, "127.0.0.1:1"),
        plaintext=True,
    )


@pytest.fixture
async def open_browser(stack: AsyncExitStack, profile: Profile) -> OpenBrowser:
    """Open browsers of a console without services."""
    return await open_console(stack, profile)


@pytest.fixture
def browser(open_browser: OpenBrowser) -> Browser:
    """A browser of a console without services."""
    return open_browser()


@pytest.fixture
async def at_idp(stack: AsyncExitStack, profile: Profile, idp: LoopbackIssuer) -> Browser:
    """A browser of a console at an issuer whose answers a test makes."""
    return (await open_console(stack, profile.model_copy(update={"issuer": idp.issuer})))()


@pytest.fixture
async def on_system(stack: AsyncExitStack, bed_profile: Profile) -> Browser:
    """A browser of a console of the whole system."""
    return (await open_console(stack, bed_profile))()


@pytest.fixture
def bed_profile(gatehouse: Testbed) -> Profile:
    """The whole system, with the demo users and clients."""
    return Profile(
        issuer=gatehouse.issuer,
        targets=dict(gatehouse.targets),
        ca_file=gatehouse.ca_file,
        passwords=dict(gatehouse.passwords),
        clients=dict(gatehouse.clients),
        traces_url="http://127.0.0.1:1",
    )


async def sign_in_at(
    idp: LoopbackIssuer, browser: Browser, *, refresh: Reply | None = None, **claims: Any
) -> httpx.Response:
    """Sign in at an issuer whose answers a test makes, and return the front page.

    With an answer to the refresh, the access token ends so soon that it is refreshed at its first use.
    """
    asked = (await browser.http.get(f"{ORIGIN}/sign-in")).headers["location"]
    query = httpx.URL(asked).params
    identity = {"aud": "gatehouse-console", "nonce": query["nonce"], "preferred_username": "alice"} | claims
    tokens = {
        "access_token": "access",
        "token_type": "Bearer",
        "refresh_token": "refresh",
        "expires_in": 300 if refresh is None else 2,
    }

    def reply(request: Request) -> Reply:
        if request.form["grant_type"] == "refresh_token" and refresh is not None:
            return refresh
        return Reply(tokens | {"id_token": idp.sign(**identity)})

    idp.answer("token", reply)
    return await browser.get(f"/callback?code=c&state={query['state']}&iss={idp.issuer}")
