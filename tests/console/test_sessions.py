"""Sessions that end, tabs that differ, and rights that change."""

from __future__ import annotations

import html
import json
import re
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import jwt
import pytest

from gatehouse.client import OAuthClient, TokenResponse
from gatehouse.client.profile import Profile
from gatehouse_console.config import Origin
from gatehouse_console.sessions import IDLE_SECONDS, MAX_SESSIONS, Sessions
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.console.conftest import ORIGIN, open_console
from tests.console.test_matrix import verdicts
from tests.support.eventually import eventually


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_session_that_ended_says_so_and_returns_to_the_page(
    stack: AsyncExitStack, profile: Profile
) -> None:
    clock = Clock()
    browser = (await open_console(stack, profile, monotonic=clock))()
    page = await browser.sign_in(return_to="/call")
    clock.now += IDLE_SECONDS - 1
    assert (await browser.get("/call")).status_code == 200
    clock.now += IDLE_SECONDS
    expired = await browser.get("/call")
    assert (expired.status_code, "Your login has ended" in expired.text) == (401, True)
    assert 'href="/sign-in?return_to=/call"' in expired.text
    sent = await browser.submit(page, "/sign-out")
    assert (sent.status_code, "Your login has ended" in sent.text) == (401, True)
    again = await browser.get("/sign-in?return_to=/call")  # the issuer remembers the user
    assert (again.status_code, str(again.url)) == (200, f"{ORIGIN}/call")


# <part admin>
async def test_form_of_a_tab_does_nothing_after_sign_out_in_another(
    on_system: Browser, gatehouse: Testbed
) -> None:
    tab = await on_system.sign_in("alice", return_to="/roles")
    await on_system.submit(await on_system.get("/token"), "/sign-out")
    page = await on_system.submit(tab, "/roles", user=gatehouse.users["bob"], role="admin", change="grant")
    assert (page.status_code, "Sign in to go on" in page.text) == (401, True)
    assert gatehouse.calls("ManageRoles") == []


async def test_form_of_a_tab_does_nothing_for_another_user_who_signed_in(
    on_system: Browser, gatehouse: Testbed
) -> None:
    tab = await on_system.sign_in("alice", return_to="/roles")
    await on_system.submit(tab, "/sign-out")
    await on_system.sign_in("bob", return_to="/nothing")
    page = await on_system.submit(tab, "/roles", user=gatehouse.users["bob"], role="admin", change="grant")
    assert (page.status_code, "You have signed in since this page was opened" in page.text) == (403, True)
    assert '<span class="user">bob</span>' in page.text
    assert gatehouse.calls("ManageRoles") == []


async def test_role_given_in_one_tab_changes_cells_and_after_a_refresh_the_own_rights(
    on_system: Browser, stack: AsyncExitStack, bed_profile: Profile, gatehouse: Testbed
) -> None:
    """One browser is alice, with two tabs; the other one is bob."""
    bob = (await open_console(stack, bed_profile))()
    matrix = await on_system.sign_in("alice")
    own = await bob.sign_in("bob")
    assert {verdicts(page)["DeleteUser", "bob"] for page in (matrix, own)} == {"denied"}
    roles = await on_system.get("/roles")
    await on_system.submit(roles, "/roles", user="bob@example.test", role="admin", change="grant")

    async def is_delivered() -> bool:
        claims = jwt.decode(gatehouse.token("bob"), options={"verify_signature": False})
        return "admin" in json.dumps(claims["realm_access"])

    await eventually(is_delivered)
    matrix = await on_system.submit(matrix, "/run")
    assert verdicts(matrix)["DeleteUser", "bob"] == "allowed, was denied"
    assert verdicts(matrix)["DeleteUser", "alice"] == "allowed"
    # The token of bob keeps its scopes until it is refreshed, and his page says what has changed.
    own = await bob.submit(own, "/run")
    assert verdicts(own)["DeleteUser", "bob"] == "allowed, was denied"
    assert verdicts(own)["DeleteUser", "you"] == "denied"
    token = await bob.get("/token")
    now = re.search(r"the issuer says now: <code>([^<]+)</code>", token.text)
    assert now is not None
    assert set(json.loads(html.unescape(now[1]))["roles"]) == {"user", "admin"}
    token = await bob.submit(token, "/token/refresh")
    assert "the issuer says now" not in token.text
    # New scopes need a new login (RFC 6749 section 6), and the matrix of the old session is not kept.
    own = await bob.get("/sign-in?return_to=/")
    assert verdicts(own)["DeleteUser", "you"] == "allowed"


# </part admin>


@pytest.fixture
async def client() -> AsyncIterator[OAuthClient]:
    """A client that sends nothing."""
    async with httpx.AsyncClient() as http:
        yield OAuthClient(http, "client", issuer="http://127.0.0.1:1")


def test_all_sessions_together_need_a_bounded_amount_of_memory(client: OAuthClient) -> None:
    sessions, count = Sessions(Origin.parse(ORIGIN)), 200
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            texts = [f"{number:04}" * 500 for _ in range(3)]  # tokens of 2,000 characters
            sessions.begin(client, TokenResponse(texts[0], "Bearer", 60, "", *texts[1:]))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / count * MAX_SESSIONS < 200e6
