"""The pages that call an RPC."""

from __future__ import annotations

import html

import pytest

from gatehouse.app.policy import policy_rows
from gatehouse_console.call_pages import MAX_RESPONSES
from tests.console.browser import Browser

USERS = "/call/gatehouse.users.v1.UserService"


async def call(browser: Browser, path: str, data: str, **fields: str) -> str:
    """Call an RPC with its form, and return the text of the page."""
    page = await browser.get(path)
    answer = await browser.submit(page, path, data=data, **{"seconds": "10"} | fields)
    return html.unescape(answer.text)


async def test_every_rpc_has_a_page_with_its_fields(on_system: Browser) -> None:
    index = await on_system.sign_in("bob", return_to="/call")
    for row in policy_rows():
        assert f'href="/call/{row.name}"' in index.text
        assert (await on_system.get(f"/call/{row.name}")).status_code == 200
    page = html.unescape((await on_system.get(f"{USERS}/CreateUser")).text)
    assert "<code>user.email</code>" in page
    assert "USER_STATE_SUSPENDED" in page


@pytest.mark.parametrize(
    ("method", "data", "parts"),
    [
        ("ListUsers", '{"page_size": 1}', ("Result: <code>OK</code>", '"display_name"', '<a href="/traces/')),
        ("LookupUsers", "[{}, {}]", ("Result: <code>INVALID_ARGUMENT</code>",)),
        ("GetUser", '{"user_id": "x"}', ("INVALID_ARGUMENT", "<code>user_id</code>: ")),
        ("DeleteUser", "{}", ("PERMISSION_DENIED", "The call needs all of: admin, delete:users.")),
    ],
)
async def test_call_shows_responses_status_and_details(
    on_system: Browser, method: str, data: str, parts: tuple[str, ...]
) -> None:
    await on_system.sign_in("bob", return_to="/call")
    text = await call(on_system, f"{USERS}/{method}", data)
    assert [part for part in parts if part not in text] == []


async def test_endless_stream_ends_at_the_deadline_with_its_responses(on_system: Browser) -> None:
    await on_system.sign_in("bob", return_to="/call")
    text = await call(on_system, f"{USERS}/WatchUsers", "{}", seconds="2")
    assert "Result: <code>DEADLINE_EXCEEDED</code>" in text
    assert 'aria-label="Responses"' in text
    assert MAX_RESPONSES > 1


@pytest.mark.parametrize("data", ["{", '{"other": 1}', "", "[1]", "[]", "[" * 2000, "<script>"])
async def test_malformed_request_is_explained_and_kept(browser: Browser, data: str) -> None:
    await browser.sign_in(return_to="/call")
    page = await browser.get(f"{USERS}/GetUser")
    answer = await browser.submit(page, f"{USERS}/GetUser", data=data)
    assert (answer.status_code, 'role="alert"' in answer.text) == (400, True)
    assert f">{data}</textarea>" in html.unescape(answer.text)
    assert "<script>" not in answer.text


async def test_same_call_is_shown_as_commands_that_a_shell_reads_as_one_word(browser: Browser) -> None:
    await browser.sign_in(return_to="/call")
    text = await call(browser, f"{USERS}/GetUser", """{"user_id": "'; rm -rf / #"}""")
    word = """'{"user_id": "'"'"'; rm -rf / #"}'"""
    assert f"gatehouse call users GetUser --data {word}" in text
    assert (
        f'-H "authorization: Bearer $TOKEN" -d {word} 127.0.0.1:1 gatehouse.users.v1.UserService/GetUser'
        in text
    )


async def test_unknown_rpc_is_explained(browser: Browser) -> None:
    await browser.sign_in(return_to="/call")
    page = await browser.get("/call/a.B/C")
    assert (page.status_code, "No such RPC" in page.text) == (404, True)
