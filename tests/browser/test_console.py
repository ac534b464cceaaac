"""What a person does in the console, with a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from gatehouse_testbed.bed.client import Testbed


@pytest.fixture(params=[("light", 1600), ("dark", 1600), ("light", 360)], ids=lambda p: f"{p[0]}-{p[1]}")
def page(request: pytest.FixtureRequest, chromium: Browser, url: str, gatehouse: Testbed) -> Iterator[Page]:
    """A page that is checked at the end: no error in its console, and no request to another website."""
    scheme, width = request.param
    context = chromium.new_context(
        base_url=url, color_scheme=scheme, viewport={"width": width, "height": 900}
    )
    errors: list[str] = []
    hosts: set[str] = set()
    opened = context.new_page()
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda sent: hosts.add("/".join(sent.url.split("/")[:3])))
    yield opened
    assert errors == []
    assert hosts <= {url, gatehouse.issuer.partition("/realms/")[0]}
    context.close()


def sign_in(page: Page, user: str) -> None:
    """Sign in on the start page."""
    page.goto("/")
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Name").fill(user)
    page.get_by_label("Password").fill(user)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Access matrix")).to_be_visible()


def check(page: Page) -> None:
    """Check that a page is accessible, and as wide as the window at most."""
    found: Any = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")


def test_person_signs_in_looks_why_a_call_is_denied_and_signs_out(page: Page, gatehouse: Testbed) -> None:
    page.goto("/")
    check(page)
    sign_in(page, "bob")
    check(page)

    page.get_by_role("link", name="DeleteUser by you: denied").click()
    expect(page.get_by_text("The call needs all of: admin, delete:users.")).to_be_visible()
    check(page)
    page.get_by_role("navigation").get_by_role("link", name="Access matrix").click()

    gatehouse.faults.add("GetCurrentUser", code="UNAVAILABLE")
    page.get_by_role("button", name="Run all again").click()
    expect(page.get_by_role("link", name="GetCurrentUser by you: failed, was allowed")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("changed since the run before")
    check(page)

    page.get_by_role("navigation").get_by_role("link", name="Call").click()
    check(page)
    page.get_by_role("link", name="ListUsers").click()
    page.get_by_role("button", name="Call as bob").click()
    expect(page.get_by_role("heading", name="Result: OK")).to_be_visible()
    check(page)

    page.get_by_role("navigation").get_by_role("link", name="Token").click()
    expect(page.get_by_text("The issuer says that the token is valid now")).to_be_visible()
    seconds = page.locator("[data-countdown]")
    before = seconds.inner_text()
    expect(seconds).not_to_have_text(before)
    check(page)
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("the token is revoked or expired")).to_be_visible()
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_text("The issuer says that the token is valid now")).to_be_visible()

    page.get_by_role("link", name="Gatehouse").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    check(page)
    page.go_back()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)


def test_everything_is_reached_with_the_keyboard(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press_until(page, "Sign in")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("bob")
    page.keyboard.press("Tab")
    page.keyboard.type("bob")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Access matrix")).to_be_visible()
    press_until(page, "Run all again")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("calls in")
    press_until(page, "denied")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="denied")).to_be_visible()


def press_until(page: Page, text: str) -> None:
    """Press Tab until something with this text has the focus, which must be visible."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.inner_text().strip() == text:
            assert focused.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
            return
    raise AssertionError(f"{text}: not reached with the keyboard")
