"""The pages Traces and Metrics, with a real Chromium."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.test_console import check, page, sign_in

__all__ = ["page"]


def test_person_looks_at_the_trace_of_a_denied_call_and_at_the_charts(page: Page) -> None:
    sign_in(page, "bob")
    page.get_by_role("link", name="DeleteUser by you: denied").click()
    page.locator("a[href^='/traces/']").click()
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("UserService/DeleteUser PERMISSION_DENIED")
    spans = page.get_by_role("list", name="Spans").locator("summary")
    expect(spans.first).to_contain_text("INSUFFICIENT_SCOPE")
    assert spans.first.locator("rect").evaluate("bar => bar.getBoundingClientRect().width") > 50
    expect(page.get_by_role("list", name="Log lines")).to_contain_text("INSUFFICIENT_SCOPE")
    check(page)

    spans.first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("rpc.response.status_code")).to_be_visible()
    check(page)

    page.get_by_role("link", name="Traces").first.click()
    expect(
        page.get_by_role("region", name="Your calls").get_by_role("link", name="DeleteUser")
    ).to_be_visible()
    expect(page.get_by_role("region", name="All calls").get_by_role("link").first).to_be_visible()
    check(page)

    page.get_by_role("navigation").get_by_role("link", name="Metrics").click()
    chart = page.get_by_role("img", name="Denials by reason per minute; highest: reason")
    expect(chart).to_be_visible()
    assert chart.locator(".l0").evaluate("line => line.getBoundingClientRect().width") > 50
    expect(page.get_by_role("table", name="Denials by reason per minute")).to_contain_text("reason1")
    check(page)
    drawn = page.locator("time").inner_text()
    page.get_by_label("Follow").check()
    expect(page.locator("time")).not_to_have_text(drawn)
