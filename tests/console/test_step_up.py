"""A stronger login for a call (RFC 9470)."""

# <part admin/>

from __future__ import annotations

import html
import re

import httpx
import pytest

from gatehouse_console.challenges import step_up
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.console.conftest import ORIGIN

LIST_USERS = "/call/gatehouse.users.v1.UserService/ListUsers"


def offer(page: httpx.Response) -> str:
    """Return where the offer to log in again leads."""
    found = re.search(r'href="(/sign-in\?[^"]+)">Log in again<', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


async def accept(browser: Browser, page: httpx.Response, user: str = "alice") -> httpx.Response:
    """Log in again as a page offers, and return the page after it."""
    login = await browser.get(offer(page))
    redirect = await browser.enter_password(login, user)
    return await browser.get(redirect.headers["location"])


async def test_call_that_needs_a_recent_login_is_repeated_after_it(
    on_system: Browser, gatehouse: Testbed
) -> None:
    page = await on_system.sign_in("alice", return_to=LIST_USERS)
    gatehouse.faults.add("ListUsers", max_age=60)
    gatehouse.clock.advance(seconds=100)
    page = await on_system.submit(page, LIST_USERS, data='{"page_size": 3}', seconds="30")
    assert "Log in again, within 60 s of the call." in page.text
    page = await accept(on_system, page)
    asked = next(a.request.url.params for a in reversed(on_system.seen) if "max_age" in str(a.request.url))
    assert (asked["max_age"], asked["prompt"]) == ("60", "login")
    assert str(page.url) == f"{ORIGIN}{LIST_USERS}"
    assert '{"page_size": 3}</textarea>' in html.unescape(page.text)
    assert 'step="any" value="30"' in page.text
    page = await on_system.submit(page, LIST_USERS, data='{"page_size": 3}', seconds="30")
    assert ">OK</code>" in page.text
    assert '{"page_size": 3}' not in html.unescape((await on_system.get(LIST_USERS)).text)


async def test_role_change_that_needs_a_stronger_login_is_repeated_after_it(
    on_system: Browser, gatehouse: Testbed
) -> None:
    await on_system.sign_in("alice", return_to="/nothing")
    page = await on_system.get("/sign-in?return_to=/roles")  # the cookie of the issuer is enough: acr 0
    gatehouse.faults.add("ManageRoles", acr="1")
    form = {"user": "bob@example.test", "role": "editor", "change": "grant"}
    page = await on_system.submit(page, "/roles", **form)
    assert "with authentication context 1" in page.text
    page = await accept(on_system, page)
    assert str(page.url) == f"{ORIGIN}/roles"
    assert all(f'value="{form[name]}"' in page.text for name in ("user", "role"))
    page = await on_system.submit(page, "/roles", **form)
    assert "user_id=" in str(page.url)


@pytest.mark.parametrize("path", ["/audit", "/roles", "/"])
async def test_every_page_that_calls_offers_it(on_system: Browser, gatehouse: Testbed, path: str) -> None:
    gatehouse.faults.add("List*", max_age=60)
    await on_system.sign_in("alice", return_to="/nothing")
    gatehouse.clock.advance(seconds=100)
    page = await on_system.get(path)
    if path == "/":
        link = re.search(r'href="(/cell/you/[\w.]+/ListUsers)"', page.text)
        assert link is not None
        page = await on_system.get(link[1])
        assert "return_to=/&" in offer(page)
    assert "max_age=60" in offer(page)
    assert "Log in again<" not in (await accept(on_system, page)).text


@pytest.mark.parametrize("signs_out", [True, False])
async def test_what_was_entered_is_not_shown_to_the_next_user(
    on_system: Browser, gatehouse: Testbed, signs_out: bool
) -> None:
    page = await on_system.sign_in("alice", return_to=LIST_USERS)
    gatehouse.faults.add("ListUsers", max_age=60)
    gatehouse.clock.advance(seconds=100)
    refused = await on_system.submit(page, LIST_USERS, data='{"page_size": 3}', seconds="10")
    assert offer(refused)
    if signs_out:
        await on_system.submit(refused, "/sign-out")
    else:
        for cookie in list(on_system.http.cookies.jar):
            if not cookie.name.startswith("gatehouse-"):  # the issuer forgets alice, the console does not
                on_system.http.cookies.jar.clear(cookie.domain, cookie.path, cookie.name)
    page = await on_system.sign_in("bob", return_to=LIST_USERS)
    assert '<span class="user">bob</span>' in page.text
    assert '{"page_size": 3}' not in html.unescape(page.text)


@pytest.mark.parametrize(
    "query", ["max_age=-1", "max_age=x", "max_age=1e9", "acr_values=%22", "acr_values=%0d%0a", "acr_values=é"]
)
async def test_parameters_that_no_challenge_has_are_refused(browser: Browser, query: str) -> None:
    page = await browser.get(f"/sign-in?{query}")
    assert (page.status_code, "not a value of a challenge" in page.text) == (400, True)


def test_only_a_challenge_for_a_login_is_answered_with_one() -> None:
    assert step_up('Bearer error="insufficient_scope", max_age=1') == {}
    assert step_up('Bearer error="insufficient_user_authentication"') == {"again": "yes"}
