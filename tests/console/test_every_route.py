"""What must hold for every page of the console, also for those that are added later."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.routing import Mount, Route

from gatehouse.app.policy import policy_rows
from gatehouse.client.profile import Profile
from gatehouse_console.app import open_app
from gatehouse_console.config import CALLBACK_PATH, Origin
from gatehouse_console.guard import Guard
from tests.console.browser import Browser
from tests.console.conftest import ORIGIN
from tests.support.issuer import LiveIssuer

# Pages for everybody. The front page is one too: without a session it has the link to sign in.
OPEN = {"/", "/sign-in", CALLBACK_PATH, "/signed-out"}
HOSTILE = "<script>alert(1)</script>"
FOREIGN_FORMS = [
    {"sec_fetch_site": "cross-site", "origin": "https://evil.test"},
    {"sec_fetch_site": "", "origin": ""},
]


@pytest.fixture
async def console(stack: AsyncExitStack, profile: Profile) -> Guard:
    """A console without services."""
    return await stack.enter_async_context(open_app(profile, Origin.parse(ORIGIN)))


@pytest.fixture
async def visitor(console: Guard) -> AsyncIterator[Browser]:
    """A browser that is not signed in."""
    browser = Browser(console, ORIGIN)
    yield browser
    await browser.aclose()


@pytest.fixture
async def user(console: Guard) -> AsyncIterator[Browser]:
    """A browser that is signed in."""
    browser = Browser(console, ORIGIN)
    await browser.sign_in(return_to="/nothing")
    yield browser
    await browser.aclose()


def paths(console: Guard, method: str, value: str | None = None) -> Iterator[str]:
    """Yield a path of each route of a method.

    Args:
        console: The console.
        method: HTTP method.
        value: Value of each parameter; by default one that exists where that is known.
    """
    known = {"rpc": policy_rows()[0].name, "caller": "you"}
    for route in console.app.routes:
        if isinstance(route, Mount):
            assert route.path == "/static"
            continue
        assert isinstance(route, Route), "this suite knows Route and Mount only; extend it"
        if method in (route.methods or ()):
            yield re.sub(r"{(\w+)}", lambda m: value or known.get(m[1], "x"), route.path_format)


def check_headers(response: httpx.Response, issuer: str) -> None:
    """Check what the headers of every response say to browsers."""
    headers = response.headers
    directives = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert directives.pop("form-action") in {"'self'", f"'self' {issuer}"}
    assert directives == dict.fromkeys(
        ("default-src", "base-uri", "frame-ancestors"), "'none'"
    ) | dict.fromkeys(("style-src", "script-src", "img-src", "connect-src"), "'self'")
    expected = {
        "cache-control": "no-store",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    assert {name: headers.get(name) for name in expected} == expected
    assert "access-control-allow-origin" not in headers


def check_content(page: httpx.Response) -> None:
    """Check that a page keeps to its own content security policy, and that its forms have the token."""
    if not page.headers.get("content-type", "").startswith("text/html"):
        return
    text = page.text
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text) == []
    assert re.findall(r"<script(?! src=\"/static/)", text) == []
    assert re.findall(r'<(?:script|link|img|iframe|source)[^>]*(?:src|href)="(?!/static/)', text) == []
    for form in re.findall(r"<form[^>]*>.*?</form>", text, re.DOTALL):
        assert re.search(r'action="/', form)
        assert ('method="post"' in form) is ('name="csrf" value="' in form)
    for link in re.findall(r'<a [^>]*href="https?://[^>]*>', text):
        assert "noreferrer" in link or "noopener" in link or ORIGIN in link


async def test_page_needs_a_session(console: Guard, visitor: Browser) -> None:
    found = {}
    for path in paths(console, "GET"):
        answer = await visitor.http.get(f"{ORIGIN}{path}")
        found[path] = answer.status_code
        assert path in OPEN or "Sign in" in answer.text
        assert path == "/sign-in" or "set-cookie" not in answer.headers
    assert {path for path, status in found.items() if status != 401} == OPEN
    assert (await visitor.get("/")).text.count("<form") == 0


async def test_form_needs_a_session_its_token_and_a_page_of_the_console(
    console: Guard, visitor: Browser, user: Browser
) -> None:
    csrf = re.search(r'name="csrf" value="([^"]+)"', (await user.get("/nothing")).text)
    assert csrf is not None
    for path in paths(console, "POST"):
        assert (await visitor.post(path, {"csrf": csrf[1]})).status_code == 401, path
        assert (await user.post(path, {"other": "x"})).status_code == 403, path
        assert (await user.post(path, {"csrf": "x" * 43})).status_code == 403, path
        for headers in FOREIGN_FORMS:
            assert (await user.post(path, {"csrf": csrf[1]}, **headers)).status_code == 403, path
    assert "Sign out" in (await user.get("/nothing")).text


async def test_other_methods_are_refused(console: Guard, user: Browser) -> None:
    own = {"sec-fetch-site": "same-origin", "origin": ORIGIN}
    gets, posts = set(paths(console, "GET")), set(paths(console, "POST"))
    for path in gets | posts:
        methods = {"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"}
        for method in methods | ({"POST"} if path not in posts else set()):
            answer = await user.http.request(method, f"{ORIGIN}{path}", headers=own)
            assert answer.status_code == 405, (method, path)
    for path in posts - gets:
        assert (await user.get(path)).status_code == 405, path


async def test_other_host_is_refused(console: Guard, user: Browser) -> None:
    for method in ("GET", "POST"):
        for path in paths(console, method):
            headers = {"host": "evil.test:8090", "sec-fetch-site": "same-origin"}
            answer = await user.http.request(method, f"{ORIGIN}{path}", headers=headers)
            assert answer.status_code == 421, path


async def test_every_page_is_usable_without_services_and_keeps_to_its_policy(
    console: Guard, user: Browser, issuer: LiveIssuer
) -> None:
    for path in paths(console, "GET"):
        answer = await user.http.get(f"{ORIGIN}{path}")
        assert answer.status_code < 500, path
        check_headers(answer, issuer.running.base_url)
        check_content(answer)


async def test_every_response_has_the_security_headers(
    console: Guard, visitor: Browser, issuer: LiveIssuer
) -> None:
    for method in ("GET", "POST"):
        for path in [*paths(console, method), "/nothing", "/static/console.css", "/static/nothing"]:
            check_headers(await visitor.http.request(method, f"{ORIGIN}{path}"), issuer.running.base_url)


async def test_html_in_addresses_and_forms_is_text(console: Guard, user: Browser) -> None:
    csrf = re.search(r'name="csrf" value="([^"]+)"', (await user.get("/nothing")).text)
    assert csrf is not None
    names = (
        "resource",
        "subject",
        "issuer",
        "user",
        "user_id",
        "role",
        "data",
        "page_token",
        "q",
        "return_to",
    )
    fields = dict.fromkeys(names, f"\"'>{HOSTILE}")
    for path in [*paths(console, "GET"), *paths(console, "GET", HOSTILE), f"/{HOSTILE}"]:
        page = await user.http.get(f"{ORIGIN}{path}?{httpx.QueryParams(fields)}")
        assert HOSTILE not in page.text, path
        check_content(page)
    for path in paths(console, "POST"):
        if path != "/sign-out":
            assert HOSTILE not in (await user.post(path, fields | {"csrf": csrf[1]})).text, path
