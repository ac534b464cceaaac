"""Calls with the console, in a real Chromium."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from gatehouse_console.calls.patterns import html_pattern
from gatehouse_testbed.bed.client import Testbed
from tests.browser.test_console import check, page, press_until, sign_in

__all__ = ["page"]

# Where one of the variants is enough.
wide = pytest.mark.parametrize("page", [("light", 1600)], indirect=True)
narrow = pytest.mark.parametrize("page", [("dark", 360)], indirect=True)

USERS = "/call/gatehouse.users.v1.UserService"
HOSTILE = "<img src=x onerror=alert(1)>"


def test_person_fills_in_a_form_and_sees_what_is_wrong_beside_its_field(page: Page) -> None:
    sign_in(page, "alice")
    page.get_by_role("navigation").get_by_role("link", name="Call").click()
    page.get_by_role("link", name="CreateUser").click()
    check(page)
    email, name = page.get_by_label("email string"), page.get_by_label("display_name string")
    email.fill("nobody")
    name.fill(HOSTILE)
    page.get_by_text("Metadata").click()
    page.get_by_label("An entry name: value").fill("x-request-id: of-this-page")
    page.get_by_role("button", name="Call as alice").click()
    expect(page.get_by_role("heading", name="Result: INVALID_ARGUMENT")).to_be_visible()
    expect(page.get_by_text("of-this-page", exact=True)).to_be_visible()
    expect(email).to_have_attribute("aria-invalid", "true")
    expect(email).to_have_accessible_description(re.compile("must be a valid email address$"))
    check(page)

    email.fill("a@example.test")
    email.press("Enter")
    expect(page.get_by_role("heading", name="Result: OK")).to_be_visible()
    expect(page.get_by_role("region", name="Response 1")).to_contain_text(HOSTILE)
    expect(page.get_by_role("main").locator("img")).to_have_count(0)
    expect(page.locator("#command-gatehouse")).to_contain_text("--metadata 'x-request-id: of-this-page'")
    check(page)


# <part admin>
@narrow
def test_person_adds_and_removes_items_and_edits_the_request_as_json(page: Page) -> None:
    sign_in(page, "alice")
    page.goto("/call/gatehouse.admin.v1.AdminService/ManageRoles")
    for number, role in enumerate(("editor", "auditor")):
        page.get_by_role("button", name="Add an item to grant_roles").click()
        item = page.get_by_label(f"grant_roles[{number}] string")
        expect(item).to_be_focused()
        item.fill(role)
    check(page)
    page.get_by_role("button", name="Remove grant_roles[0]").click()
    expect(page.get_by_role("button", name="Add an item to grant_roles")).to_be_focused()
    page.get_by_role("button", name="Edit as JSON").click()
    area = page.get_by_label("ManageRolesRequest in JSON")
    expect(area).to_have_value('{\n  "grant_roles": [\n    "auditor"\n  ]\n}')
    check(page)
    area.fill('{"user_id": 5, "grant_roles": ["x", "y"]}')
    page.get_by_role("button", name="Edit as a form").click()
    expect(page.get_by_label("user_id string")).to_have_value("5")
    expect(page.get_by_label("grant_roles[1] string")).to_have_value("y")


# </part admin>


def test_stream_is_seen_live_and_cancelled(page: Page, gatehouse: Testbed) -> None:
    sign_in(page, "alice")
    page.goto(f"{USERS}/WatchUsers")
    page.get_by_role("button", name="Call as alice").click()
    expect(page.get_by_role("heading", name="Running")).to_be_visible()
    expect(page.get_by_role("region", name="Response 1")).to_be_visible()
    check(page)

    other = page.context.new_page()
    other.goto(f"{USERS}/UpdateUser")
    other.get_by_label("user_id").fill(gatehouse.users["bob"])
    other.get_by_label("display_name").fill(HOSTILE)
    other.get_by_role("button", name="Call as alice").click()
    expect(other.get_by_role("heading", name="Result: OK")).to_be_visible()
    other.close()

    expect(page.get_by_role("region", name="Response 2")).to_contain_text(HOSTILE)
    expect(page.get_by_role("main").locator("img")).to_have_count(0)
    expect(page.get_by_text("2 so far.")).to_be_visible()
    page.get_by_role("button", name="Cancel the call").click()
    expect(page.get_by_role("heading", name="Result: CANCELLED")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel the call")).to_have_count(0)
    check(page)


@wide
def test_page_shows_the_end_of_a_stream_without_being_reloaded(page: Page) -> None:
    sign_in(page, "bob")
    page.goto(f"{USERS}/WatchUsers")
    page.get_by_role("button", name="Call as bob").click()
    page.get_by_role("button", name="Cancel the call").focus()
    other = page.context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Cancel the call").click()
    expect(other.get_by_role("heading", name="Result: CANCELLED")).to_be_visible()
    # The button that had the focus is gone.
    expect(page.get_by_role("heading", name="Result: CANCELLED")).to_be_focused()
    check(page)


@wide
def test_call_is_made_with_the_keyboard_only(page: Page) -> None:
    sign_in(page, "bob")
    page.goto("/call")
    press_until(page, "GetUser")
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="Edit as JSON"))
    page.keyboard.press("Enter")
    area = page.get_by_label("GetUserRequest in JSON")
    tab_to(page, area)
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type('{"user_id": "x"}')
    tab_to(page, page.get_by_role("button", name="Edit as a form"), "Shift+Tab")
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("user_id"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Result: INVALID_ARGUMENT")).to_be_visible()
    expect(page.get_by_label("user_id")).to_have_accessible_description("a UUID must be a valid UUID")
    tab_to(page, page.get_by_role("button", name="Edit as JSON"))
    page.keyboard.press("Enter")
    tab_to(page, area)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Result: INVALID_ARGUMENT")).to_be_visible()
    expect(area).to_be_visible()


def tab_to(page: Page, place: Locator, key: str = "Tab") -> None:
    """Press a key until a place has the focus, which must be visible."""
    expect(place).to_be_visible()
    for _ in range(60):
        page.keyboard.press(key)
        if place.evaluate("element => element === document.activeElement"):
            assert place.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
            return
    raise AssertionError(f"{place}: not reached with the keyboard")


@pytest.mark.parametrize(
    ("expression", "good", "bad"),
    [
        ("^[a-z][a-z0-9_-]{0,63}$", "a-b_", "A"),
        (r"^[^\x00-\x1f\x7f]*$", "é -", "\x7f"),
        ("[-a/(|&]", "xx|", "xx"),
        (r"^(?:a|b)+?\.[\]x]$", "ab.]", "ab"),
        ("b", "abc", "ac"),
    ],
)
def test_browsers_compile_the_patterns(chromium: Browser, expression: str, good: str, bad: str) -> None:
    with chromium.new_page() as blank:
        input_matches = "([pattern, text]) => new RegExp(`^(?:${pattern})$`, 'v').test(text)"
        pattern = html_pattern(expression)
        assert pattern is not None
        assert blank.evaluate(input_matches, [pattern, good])
        assert not blank.evaluate(input_matches, [pattern, bad])
