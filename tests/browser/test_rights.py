"""Roles, stronger logins, sessions and tabs, with a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from gatehouse_testbed.bed.client import Testbed
from tests.browser.test_console import check, sign_in

LIST_USERS = "/call/gatehouse.users.v1.UserService/ListUsers"


@pytest.fixture
def tabs(chromium: Browser, url: str, gatehouse: Testbed) -> Iterator[BrowserContext]:
    """A browser for several tabs, in which no script fails and no other website is asked."""
    context = chromium.new_context(base_url=url, viewport={"width": 1600, "height": 900})
    errors: list[str] = []
    hosts: set[str] = set()

    def keep(message: ConsoleMessage) -> None:
        # Chromium reports the status of a page that asks to sign in as an error too.
        if message.type == "error" and not re.search(r"a status of 40[13]", message.text):
            errors.append(message.text)

    context.on("console", keep)
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("request", lambda sent: hosts.add("/".join(sent.url.split("/")[:3])))
    yield context
    assert errors == []
    assert hosts <= {url, gatehouse.issuer.partition("/realms/")[0]}
    context.close()


def check_everywhere(page: Page) -> None:
    """Check a page in light and dark, wide and narrow."""
    for scheme, width in (("light", 1600), ("dark", 1600), ("light", 360)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        check(page)
    page.set_viewport_size({"width": 1600, "height": 900})


def enter_password(page: Page, user: str) -> None:
    """Fill in the login page of an issuer that remembers the user."""
    page.get_by_label("Password").fill(user)
    page.get_by_role("button", name="Sign in").click()


# <part admin>
def test_role_given_in_one_tab_is_marked_in_the_matrix_of_another(tabs: BrowserContext) -> None:
    matrix, roles = tabs.new_page(), tabs.new_page()
    sign_in(matrix, "alice")
    expect(matrix.get_by_role("link", name="DeleteUser by bob: denied")).to_be_visible()

    roles.goto("/roles")
    roles.get_by_role("combobox", name="User").fill("bob@example.test")
    roles.get_by_role("combobox", name="Role").fill("admin")
    roles.get_by_role("button", name="Grant").click()
    expect(roles.get_by_role("button", name=re.compile("Revoke admin of"))).to_be_visible()
    for _ in range(100):
        if roles.get_by_text("delivered", exact=True).count():
            break
        roles.get_by_role("link", name="Look again").click()
    expect(roles.get_by_text("delivered", exact=True)).to_be_visible()
    check_everywhere(roles)

    matrix.get_by_role("button", name="Run all again").click()
    expect(matrix.get_by_role("link", name="DeleteUser by bob: allowed, was denied")).to_be_visible()

    roles.get_by_role("button", name=re.compile("Revoke admin of")).click()
    expect(roles.get_by_text("No role was given that matches.")).to_be_visible()
    roles.get_by_role("navigation").get_by_role("link", name="Audit").click()
    expect(roles.get_by_role("rowheader", name="role.revoked")).to_be_visible()
    check_everywhere(roles)
    roles.get_by_label("Follow").check()
    other = tabs.new_page()
    other.goto("/roles")
    other.get_by_role("combobox", name="User").fill("carol@example.test")
    other.get_by_role("combobox", name="Role").fill("editor")
    other.get_by_role("button", name="Grant").click()
    expect(other.get_by_role("button", name=re.compile("Revoke editor of"))).to_be_visible()
    roles.bring_to_front()
    expect(roles.get_by_role("rowheader", name="role.granted")).to_have_count(2, timeout=30_000)


def test_denied_user_sees_why_in_place_of_an_empty_page(tabs: BrowserContext) -> None:
    page = tabs.new_page()
    sign_in(page, "bob")
    for name in ("Roles", "Audit"):
        page.get_by_role("navigation").get_by_role("link", name=name).click()
        expect(page.get_by_text("The call needs all of: admin.").first).to_be_visible()
        check_everywhere(page)


# </part admin>


def test_call_that_needs_a_recent_login_is_repeated_after_it(
    tabs: BrowserContext, gatehouse: Testbed
) -> None:
    page = tabs.new_page()
    sign_in(page, "alice")
    gatehouse.faults.add("ListUsers", max_age=60)
    gatehouse.clock.advance(seconds=100)
    page.goto(LIST_USERS)
    call = page.get_by_role("button", name="Call as alice")
    call.click()
    expect(page.get_by_text("Log in again, within 60 s of the call.")).to_be_visible()
    check_everywhere(page)
    page.get_by_role("link", name="Log in again").click()
    enter_password(page, "alice")
    expect(page).to_have_url(re.compile(f"{LIST_USERS}$"))
    call.click()
    expect(page.get_by_role("heading", name="Result: OK")).to_be_visible()


def test_ended_session_is_reported_and_continues_after_a_login(
    tabs: BrowserContext, gatehouse: Testbed
) -> None:
    page = tabs.new_page()
    sign_in(page, "alice")
    page.goto("/token")
    gatehouse.reset()  # the issuer forgets the login
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("heading", name="Your login has ended")).to_be_visible()
    check_everywhere(page)
    page.goto("/call")
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Name").fill("bob")
    enter_password(page, "bob")
    expect(page).to_have_url(re.compile("/call$"))


# <part admin>
def test_tabs_of_another_session_do_nothing(tabs: BrowserContext, gatehouse: Testbed) -> None:
    first, second = tabs.new_page(), tabs.new_page()
    sign_in(first, "alice")
    second.goto("/roles")
    second.get_by_role("combobox", name="User").fill("bob@example.test")
    second.get_by_role("combobox", name="Role").fill("admin")
    grant = second.get_by_role("button", name="Grant")

    first.get_by_role("button", name="Sign out").click()
    expect(first.get_by_role("heading", name="You are signed out")).to_be_visible()
    grant.click()
    expect(second.get_by_role("heading", name="Sign in to go on")).to_be_visible()
    check_everywhere(second)

    second.go_back()
    expect(second.get_by_role("link", name="Sign in")).to_be_visible()
    sign_in(second, "alice")
    second.goto("/token")
    first.goto("/")
    first.get_by_role("button", name="Sign out").click()
    sign_in(first, "bob")
    second.get_by_role("button", name="Revoke").click()
    expect(second.get_by_role("heading", name="Not a form of this session")).to_be_visible()
    check_everywhere(second)
    assert "OK" not in {call.code for call in gatehouse.calls("ManageRoles")}


# </part admin>


def test_every_page_is_accessible_and_used_with_the_keyboard(tabs: BrowserContext) -> None:
    page = tabs.new_page()
    sign_in(page, "alice")
    names = page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()
    for name in names:
        walk(page, until=name)
        page.keyboard.press("Enter")
        expect(page.locator("nav [aria-current=page]")).to_have_text(name)
        check_everywhere(page)
        walk(page)


def walk(page: Page, until: str = "") -> None:
    """Press Tab until something with a text has the focus, or through all controls of the page.

    What has the focus must show it.
    """
    page.evaluate("window.reached = new Set()")
    for _ in range(1000):
        page.keyboard.press("Tab")
        text, shown, ended = page.evaluate(
            """() => {
                const focused = document.activeElement, seen = window.reached;
                const ended = focused === document.body || seen.has(focused);
                seen.add(focused);
                const style = getComputedStyle(focused);
                return [focused.innerText.trim(), style.outlineStyle !== "none" || ended, ended];
            }"""
        )
        assert shown, text
        if until and text == until:
            return
        if ended and not until:
            break
    unreached = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
            .filter(each => each.checkVisibility() && !each.disabled && each.type !== "hidden")
            .filter(each => !window.reached.has(each)).map(each => each.outerHTML)"""
    )
    assert unreached == [], f"{until}: not reached with the keyboard"
