"""What other websites, other browsers and hostile values can do to the console: nothing."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import httpx
import pytest

from gatehouse.client import OAuthClient, TokenResponse
from gatehouse.settings import ConfigurationError
from gatehouse_console.config import Origin
from gatehouse_console.recent import Recent
from gatehouse_console.sessions import MAX_SESSIONS, Sessions
from tests.console.browser import Browser, hidden_fields
from tests.console.conftest import ORIGIN, OpenBrowser, sign_in_at
from tests.support.oauth_issuers import LoopbackIssuer


@pytest.fixture
async def signed_in(browser: Browser) -> tuple[Browser, httpx.Response]:
    """A browser with a session, and a page of it."""
    return browser, await browser.sign_in(return_to="/nothing")


# Forms of other websites.


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site", "origin": "https://evil.test"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:9999"},
        {"sec_fetch_site": "same-origin", "origin": "null"},
        {"sec_fetch_site": "none", "origin": ""},
        {"sec_fetch_site": "", "origin": "https://evil.test"},
        {"sec_fetch_site": "", "origin": ""},
    ],
)
async def test_form_of_another_website_is_refused_even_with_the_token(
    signed_in: tuple[Browser, httpx.Response], headers: dict[str, str]
) -> None:
    browser, page = signed_in
    answer = await browser.post("/sign-out", hidden_fields(page, "/sign-out"), **headers)
    assert answer.status_code == 403
    assert "Sign out" in (await browser.get("/nothing")).text


@pytest.mark.parametrize("form", [{"other": "x"}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "é"}])
async def test_form_without_the_token_of_the_session_is_refused(
    signed_in: tuple[Browser, httpx.Response], form: dict[str, str]
) -> None:
    browser, _ = signed_in
    answer = await browser.post("/sign-out", form)
    assert (answer.status_code, "Not a form of this session" in answer.text) == (403, True)
    assert "Sign out" in (await browser.get("/nothing")).text


async def test_form_of_an_earlier_session_is_refused(signed_in: tuple[Browser, httpx.Response]) -> None:
    browser, page = signed_in
    await browser.get("/sign-in?return_to=/nothing")  # the issuer remembers the user
    assert (await browser.submit(page, "/sign-out")).status_code == 403


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"csrf=a&csrf=b", "application/x-www-form-urlencoded", 400),
        (b"csrf=%ff", "application/x-www-form-urlencoded", 400),
        (b"\xff", "application/x-www-form-urlencoded", 400),
        (b"a&" * 1000, "application/x-www-form-urlencoded", 400),
        (b"a" * 300_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_malformed_form_is_refused(
    signed_in: tuple[Browser, httpx.Response], content: bytes, kind: str, status: int
) -> None:
    browser, _ = signed_in
    headers = {"origin": ORIGIN, "content-type": kind}
    answer = await browser.http.post(f"{ORIGIN}/sign-out", content=content, headers=headers)
    assert answer.status_code == status


# Sign-ins of others.


async def test_sign_in_of_another_person_does_not_sign_in_this_browser(open_browser: OpenBrowser) -> None:
    attacker, victim = open_browser(), open_browser()
    callback = (await attacker.enter_password(await attacker.open_login_page(), "bob")).headers["location"]
    await victim.open_login_page()  # it has cookies of another sign-in
    page = await victim.get(callback)
    assert (page.status_code, "was started in another browser" in page.text) == (400, True)
    assert (await victim.get("/cell/you/x")).status_code == 401


async def test_session_id_of_before_the_sign_in_is_not_used(browser: Browser) -> None:
    fixed = "a" * 43
    browser.http.cookies.set("gatehouse-session", fixed, domain="127.0.0.1", path="/")
    await browser.sign_in(return_to="/nothing")
    assert fixed not in [cookie.value for cookie in browser.http.cookies.jar]
    browser.http.cookies.clear()
    browser.http.cookies.set("gatehouse-session", fixed, domain="127.0.0.1", path="/")
    assert (await browser.get("/cell/you/x")).status_code == 401


async def test_session_is_renewed_at_each_sign_in_and_the_old_one_ends(browser: Browser) -> None:
    await browser.sign_in(return_to="/nothing")
    old = browser.http.cookies["gatehouse-session"]
    await browser.get("/sign-in?return_to=/nothing")
    assert browser.http.cookies["gatehouse-session"] != old
    browser.http.cookies.set("gatehouse-session", old, domain="127.0.0.1", path="/")
    assert (await browser.get("/cell/you/x")).status_code == 401


async def test_response_of_the_issuer_is_used_once(browser: Browser) -> None:
    redirect = await browser.enter_password(await browser.open_login_page("/nothing"))
    assert "Sign out" in (await browser.get(redirect.headers["location"])).text
    again = await browser.get(redirect.headers["location"])
    assert (again.status_code, "was finished before" in again.text) == (400, True)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"iss": "https://evil.test"}, 502),
        ({"iss": None}, 502),
        ({"code": "wrong"}, 502),
        ({"code": None}, 502),
        ({"state": "wrong"}, 400),
        ({"state": None}, 400),
        ({"error": "invalid_scope", "code": None}, 502),
        ({"error": "<script>alert(1)</script>", "code": None}, 502),
    ],
)
async def test_changed_response_of_the_issuer_signs_in_nobody(
    browser: Browser, change: dict[str, str | None], status: int
) -> None:
    redirect = await browser.enter_password(await browser.open_login_page())
    url = httpx.URL(redirect.headers["location"])
    query = {name: value for name, value in (dict(url.params) | change).items() if value is not None}
    page = await browser.get(f"/callback?{httpx.QueryParams(query)}")
    assert page.status_code == status
    assert "<script>" not in page.text
    assert (await browser.get("/cell/you/x")).status_code == 401


async def test_repeated_parameter_of_the_response_is_refused(browser: Browser) -> None:
    redirect = await browser.enter_password(await browser.open_login_page())
    page = await browser.get(f"{redirect.headers['location']}&code=second")
    assert page.status_code == 400


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/",
        "//evil.test/",
        "/\\evil.test",
        "/%0d%0aset-cookie:x",
        "\\\\evil.test",
        "javascript:alert(1)",
        "/a//evil.test",
        "@evil.test",
        ".evil.test",
        "",
    ],
)
async def test_sign_in_returns_to_pages_of_the_console_only(browser: Browser, target: str) -> None:
    page = await browser.get(f"/sign-in?{httpx.QueryParams(return_to=target)}")
    redirect = await browser.enter_password(page)
    answer = await browser.http.get(redirect.headers["location"])
    assert answer.headers["location"] == f"{ORIGIN}/"


# Where the console is.


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8090", "127.0.0.1", "127.0.0.1:80", "", "192.0.2.1:8090"]
)
async def test_request_for_another_host_is_refused(browser: Browser, host: str) -> None:
    answer = await browser.http.get(f"{ORIGIN}/sign-in", headers={"host": host})
    assert answer.status_code == 421
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["localhost:8090", "[::1]:8090", "127.0.0.2:8090"])
async def test_other_names_of_this_machine_lead_to_the_console(browser: Browser, host: str) -> None:
    answer = await browser.http.get(f"{ORIGIN}/sign-in", headers={"host": host})
    assert (answer.status_code, answer.headers["location"]) == (307, f"{ORIGIN}/")
    assert (await browser.http.post(f"{ORIGIN}/sign-out", headers={"host": host})).status_code == 421


async def test_probe_for_any_host_learns_only_that_the_console_runs(browser: Browser) -> None:
    answer = await browser.http.get(f"{ORIGIN}/health", headers={"host": "10.1.2.3:8090"})
    assert (answer.status_code, answer.content, "set-cookie" in answer.headers) == (204, b"", False)


@pytest.mark.parametrize(
    "url",
    [
        "http://console.example.com",
        "http://192.0.2.1:8090",
        "http://0.0.0.0:8090",
        "https://console.example.com/path",
        "https://user@console.example.com",
        "https://Console.example.com",
        "https://",
        "console.example.com",
        "ftp://127.0.0.1",
        "https://console.example.com/?q",
        "https://console.example.com/#f",
    ],
)
def test_origin_that_would_send_cookies_in_clear_text_or_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--url"):
        Origin.parse(url)


# Hostile values of the issuer.


async def test_html_in_a_claim_is_text(at_idp: Browser, idp: LoopbackIssuer) -> None:
    page = await sign_in_at(idp, at_idp, preferred_username='<script>alert("x")</script>')
    assert page.status_code == 200
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page.text
    assert "<script>" not in page.text


# Bounds.


@pytest.fixture
async def client() -> AsyncIterator[OAuthClient]:
    """A client that sends nothing."""
    async with httpx.AsyncClient() as http:
        yield OAuthClient(http, "client", issuer="http://127.0.0.1:1")


def test_sessions_are_bounded_and_the_one_used_least_recently_ends(client: OAuthClient) -> None:
    sessions = Sessions(Origin.parse(ORIGIN))
    tokens = TokenResponse("a", "Bearer", 60)
    first, second = sessions.begin(client, tokens), sessions.begin(client, tokens)
    for _ in range(MAX_SESSIONS - 2):
        sessions.begin(client, tokens)
    assert len(sessions) == MAX_SESSIONS
    assert _find(sessions, first.id) is first
    sessions.begin(client, tokens)
    assert len(sessions) == MAX_SESSIONS
    assert (_find(sessions, first.id), _find(sessions, second.id)) == (first, None)


@pytest.mark.parametrize(
    "pauses", [[3600.0], [3000.0] * 15], ids=["unused for an hour", "older than 12 hours"]
)
def test_session_ends_with_time(client: OAuthClient, pauses: list[float]) -> None:
    now = [0.0]
    sessions = Sessions(Origin.parse(ORIGIN), monotonic=lambda: now[0])
    session = sessions.begin(client, TokenResponse("a", "Bearer", 60))
    *earlier, last = itertools.accumulate(pauses)
    for now[0] in earlier:
        assert _find(sessions, session.id) is session
    now[0] = last
    assert _find(sessions, session.id) is None


def test_entry_that_is_stored_again_is_the_newest() -> None:
    recent: Recent[int] = Recent(2, 60)
    recent["a"], recent["b"], recent["a"], recent["c"] = 1, 2, 3, 4
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (3, None, 4)


def _find(sessions: Sessions, session_id: str) -> object:
    from starlette.requests import Request

    cookie = f"gatehouse-session={session_id}".encode()
    return sessions.find(Request({"type": "http", "headers": [(b"cookie", cookie)]}))
