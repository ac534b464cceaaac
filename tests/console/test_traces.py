"""The pages of traces, at a server with Jaeger's query API whose answers a test makes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gatehouse.client.profile import Profile
from gatehouse.client.traces.jaeger import to_jaeger
from gatehouse.client.traces.spans import Span
from gatehouse.client.upstream import MAX_BODY_BYTES
from gatehouse_console.traces.calls import MAX_CALLS, CallLog, TracedCall
from gatehouse_console.traces.log_lines import MAX_LINES
from gatehouse_console.traces.waterfall import MAX_ROWS
from tests.console.browser import Browser
from tests.console.conftest import open_console
from tests.support.loopback_http import LoopbackServer, Reply

ID = "0" * 30 + "ab"
PATH = f"/api/traces/{ID}"
USERS = "/call/gatehouse.users.v1.UserService"
HTML = "<script>alert(1)</script>"

# A call from one service to another that is denied there.
SPANS = (
    Span("1", "", "gatehouse-admin", "p.AdminService/GetStats", "server", 1_000_000, 10_000),
    Span("2", "1", "gatehouse-admin", "p.UserService/CountUsers", "client", 1_002_000, 6_000, failed=True),
    Span(
        "3",
        "2",
        "gatehouse-users",
        "p.UserService/CountUsers",
        "server",
        1_003_000,
        4_000,
        attributes={"rpc.response.status_code": "PERMISSION_DENIED", "error.type": "INSUFFICIENT_SCOPE"},
    ),
)


@pytest.fixture
async def jaeger() -> AsyncIterator[LoopbackServer]:
    """A server without traces."""
    server = LoopbackServer()
    server.answer("/api/services", Reply({"data": ["gatehouse-admin", "gatehouse-users", "other"]}))
    server.answer("/api/traces", Reply({"data": None}))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def at_jaeger(
    stack: AsyncExitStack, profile: Profile, jaeger: LoopbackServer, tmp_path: Path
) -> Browser:
    """A signed-in browser of a console with traces and logs."""
    logs = {"users": tmp_path / "users.log", "gone": tmp_path / "gone.log"}
    configured = profile.model_copy(update={"traces_url": f"{jaeger.base_url}/", "logs": logs})
    browser = (await open_console(stack, configured))()
    await browser.sign_in(return_to="/traces")
    return browser


def answer_trace(jaeger: LoopbackServer, spans: Sequence[Span]) -> None:
    jaeger.answer(PATH, Reply({"data": [to_jaeger(ID, spans)]}))


async def test_trace_is_a_waterfall_with_errors_and_hops_between_services(
    at_jaeger: Browser, jaeger: LoopbackServer
) -> None:
    answer_trace(jaeger, SPANS)
    page = await at_jaeger.get("/traces/AB")
    text = " ".join(page.text.split())
    assert page.status_code == 200
    assert "AdminService/GetStats" in text
    assert "10 ms, 3 spans, " in text
    assert "gatehouse-admin → gatehouse-users" in text
    assert '<span class="error">INSUFFICIENT_SCOPE</span>' in text
    assert '<rect class="s1 failed" x="300.0" width="400.0" y="1" height="8"/>' in text
    assert "<dt>rpc.response.status_code</dt><dd><code>PERMISSION_DENIED</code></dd>" in text
    assert "style=" not in text  # the content security policy forbids it


async def test_last_traces_are_listed_once_and_the_newest_first(
    at_jaeger: Browser, jaeger: LoopbackServer
) -> None:
    later = Span("1", "", "gatehouse-users", "p.S/Later", "server", 9_000_000, 5)
    newest = to_jaeger("cd", [later])
    jaeger.answer("/api/traces", Reply({"data": [to_jaeger(ID, SPANS), newest]}))
    text = (await at_jaeger.get("/traces")).text
    assert jaeger.request_count("/api/traces") == 2 * 2  # when it signed in, too
    assert text.index("S/Later") < text.index("AdminService/GetStats")
    assert text.count(f'href="/traces/{ID}"') == 1
    assert "<td>admin → users</td>" in text


UNUSABLE = [
    (Reply(b"<html>"), "not a Jaeger query API"),
    (Reply([]), "not a Jaeger query API"),
    (Reply({"data": [{"traceID": "<b>", "spans": [], "processes": {}}]}), "not a Jaeger query API"),
    (Reply(b'{"data": ' + b"[" * 100_000), "not a Jaeger query API"),
    (Reply(b'{"data": "\xff"}'), "not a Jaeger query API"),
    (Reply(b'{"data": [{"traceID": "ab", "spans": [{}], "processes": {}}]}'), "not a Jaeger query API"),
    (Reply(b" " * (MAX_BODY_BYTES + 1)), "more than 8388608 bytes"),
    (Reply(status=500, body=HTML.encode()), "HTTP 500"),
    (Reply(status=302, headers={"location": "https://evil.test/"}), "HTTP 302"),
    (Reply(hang_up=True), "the connection was closed, or the response is not HTTP"),
    (Reply(raw=b"nonsense\r\n\r\n"), "the connection was closed, or the response is not HTTP"),
]


@pytest.mark.parametrize("path", ["/api/services", "/api/traces", PATH])
async def test_unusable_answer_is_named_and_the_page_stays(
    at_jaeger: Browser, jaeger: LoopbackServer, path: str
) -> None:
    for reply, message in UNUSABLE:
        jaeger.answer(path, reply)
        page = await at_jaeger.get(f"/traces/{ID}" if path == PATH else "/traces")
        assert (
            f'role="alert">{jaeger.base_url}: {message}; check `traces_url` in the profile</p>' in page.text
        )
        assert (page.status_code, "Sign out" in page.text) == (502 if path == PATH else 200, True)
        assert "<script>" not in page.text


async def test_server_that_does_not_respond_is_named(at_jaeger: Browser, jaeger: LoopbackServer) -> None:
    jaeger.hold("/api/services")
    assert "no response in time" in (await at_jaeger.get("/traces")).text
    jaeger.release("/api/services")
    await jaeger.stop()
    assert "connection refused" in (await at_jaeger.get("/traces")).text


async def test_html_of_a_server_is_text(at_jaeger: Browser, jaeger: LoopbackServer, tmp_path: Path) -> None:
    (tmp_path / "users.log").write_text(json.dumps({"trace_id": ID, "event": HTML, HTML: HTML, "n": [HTML]}))
    attributes = {HTML: HTML, "error.type": HTML, "rpc.response.status_code": HTML, "url.path": HTML}
    spans = [
        Span("1", "", "gatehouse-admin", HTML, HTML, 1, 1),
        Span("2", "1", HTML, HTML, HTML, 1, 1, failed=True, attributes=attributes),
    ]
    answer_trace(jaeger, spans)
    jaeger.answer("/api/traces", Reply({"data": [to_jaeger(ID, spans)]}))
    for path in ("/traces", f"/traces/{ID}"):
        page = await at_jaeger.get(path)
        assert (page.status_code, "<script>" in page.text) == (200, False)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text


async def test_huge_trace_is_cut(at_jaeger: Browser, jaeger: LoopbackServer) -> None:
    many = {f"key{number}": "x" * 3000 for number in range(200)}
    deep = [
        Span(
            str(n),
            str(n - 1),
            "s" * 1000,
            "n" * 1000,
            "server",
            n,
            2**53 - n,
            attributes=many if n == 1 else {},
        )
        for n in range(1, MAX_ROWS + 8)
    ]
    answer_trace(jaeger, deep)
    page = await at_jaeger.get(f"/traces/{ID}")
    assert (page.status_code, len(page.content) < 1_000_000) == (200, True)
    assert "7 more spans are not shown." in page.text


async def test_spans_that_are_each_others_parents_are_counted(
    at_jaeger: Browser, jaeger: LoopbackServer
) -> None:
    answer_trace(jaeger, [Span("1", "2", "s", "n", "server", 1, 0), Span("2", "1", "s", "n", "server", 1, 0)])
    page = await at_jaeger.get(f"/traces/{ID}")
    assert (page.status_code, "2 more spans are not shown." in page.text) == (200, True)


async def test_spans_that_arrive_late_are_awaited(at_jaeger: Browser, jaeger: LoopbackServer) -> None:
    jaeger.answer(
        PATH,
        lambda _: (
            Reply({"data": [to_jaeger(ID, SPANS)]}) if jaeger.request_count(PATH) > 1 else Reply(status=404)
        ),
    )
    assert (await at_jaeger.get(f"/traces/{ID}")).status_code == 200


async def test_log_lines_are_those_of_the_trace_and_bounded(
    at_jaeger: Browser, jaeger: LoopbackServer, tmp_path: Path
) -> None:
    answer_trace(jaeger, SPANS)
    lines = [
        "not JSON",
        '{"trace_id": "' + ID,
        f'["{ID}"]',
        f'{{"event": "mentions", "text": "{ID}"}}',
        f'{{"event": "nested", "trace_id": {{"id": "{ID}"}}}}',
        *(f'{{"event": "line{number}.", "trace_id": "{ID}"}}' for number in range(MAX_LINES + 1)),
        json.dumps({"event": "long", "trace_id": ID, "text": "x" * 10_000}),
        f'{{"event": "\\ud800", "trace_id": "{ID}"}}',
    ]
    (tmp_path / "users.log").write_text("\n".join(lines))
    text = (await at_jaeger.get(f"/traces/{ID}")).text
    shown = [
        line for line in ("line0.", "line1.", "line2.", "long", "mentions", "nested") if f">{line}<" in text
    ]
    assert shown == ["line2.", "long"]
    assert "x" * 501 not in text
    assert f"{tmp_path}/gone.log: cannot be read (No such file or directory)" in text


async def test_unknown_trace_is_explained(at_jaeger: Browser) -> None:
    page = await at_jaeger.get(f"/traces/{ID}")
    assert (page.status_code, "The server has no spans of this trace" in page.text) == (404, True)
    for wrong in ("xyz", "1" * 33, HTML.replace("/", "")):
        page = await at_jaeger.get(f"/traces/{wrong}")
        assert (page.status_code, "Not a trace id" in page.text) == (404, True)


async def test_trace_is_found_by_its_id(at_jaeger: Browser, jaeger: LoopbackServer) -> None:
    answer_trace(jaeger, SPANS)
    page = await at_jaeger.get("/traces?id=%20AB")
    assert (page.status_code, page.url.path) == (200, f"/traces/{ID}")
    assert (await at_jaeger.get("/traces?id=//evil.test")).status_code == 404


async def test_page_says_how_to_configure_traces(browser: Browser) -> None:
    page = await browser.sign_in(return_to="/traces")
    assert "Set <code>traces_url</code> in the profile" in page.text
    page = await browser.get(f"/traces/{ID}")
    assert (page.status_code, "No source of traces is configured" in page.text) == (404, True)


async def test_url_to_which_no_request_can_be_sent_is_named(stack: AsyncExitStack, profile: Profile) -> None:
    configured = profile.model_copy(update={"traces_url": "ftp://user@jaeger"})
    page = await (await open_console(stack, configured))().sign_in(return_to="/traces")
    assert "not a URL to which requests can be sent; check `traces_url`" in page.text


@pytest.mark.parametrize("path", ["/traces", f"/traces/{ID}"])
async def test_pages_are_for_users_who_are_signed_in(browser: Browser, path: str) -> None:
    assert (await browser.get(path)).status_code == 401


async def test_calls_of_the_session_are_listed_and_not_those_of_others(on_system: Browser) -> None:
    page = await on_system.sign_in("bob", return_to="/traces")
    assert "None yet. Calls of" in page.text
    form = await on_system.get(f"{USERS}/DeleteUser")
    result = await on_system.submit(form, f"{USERS}/DeleteUser", data="{}", seconds="10")
    page = await on_system.get("/traces")
    assert "UserService/DeleteUser" in page.text
    assert "PERMISSION_DENIED" in page.text
    link = page.text.partition('<a href="/traces/')[2][:32]
    assert f'href="/traces/{link}"' in result.text
    await on_system.get("/")  # makes the access matrix
    assert "UserService/ListUsers" in (await on_system.get("/traces")).text
    again = await on_system.get("/sign-in?return_to=/traces")  # a new session; the issuer remembers the user
    assert "None yet. Calls of" in again.text


def test_calls_of_a_session_are_bounded() -> None:
    log, session = CallLog(), type("Session", (), {"id": "s"})()
    for number in range(MAX_CALLS + 2):
        log.add(session, TracedCall("p.S/M", "OK", 0.1, 0.0, f"{number:032x}"))
    log.add(session, TracedCall("p.S/M", "OK", 0.1, 0.0, ""))
    assert [call.trace_id for call in log.of(session)] == [
        f"{number:032x}" for number in range(MAX_CALLS + 1, 1, -1)
    ]
