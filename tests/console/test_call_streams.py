"""Streams: live, cancelled, bounded, and ended with the session and the console."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import httpx
import pytest
import uvicorn

from gatehouse.app.policy import policy_rows
from gatehouse.client.calls import Outcome, call_once, open_channel
from gatehouse.client.profile import Profile
from gatehouse.client.requests import find_method
from gatehouse.users.v1 import users_pb2
from gatehouse_console.app import open_app
from gatehouse_console.calls.run import MAX_KEPT_CHARS, MAX_RESPONSES, Call, Run
from gatehouse_console.calls.runs import MAX_READERS, MAX_RUNNING, MAX_RUNNING_OF_ALL, open_runs
from gatehouse_console.config import Origin
from gatehouse_console.problems import Problem
from gatehouse_testbed.bed.client import Testbed
from tests.console.browser import Browser
from tests.support.eventually import eventually

WATCH = "/call/gatehouse.users.v1.UserService/WatchUsers"


@asynccontextmanager
async def running(profile: Profile) -> AsyncIterator[str]:
    """Run a console that listens, and yield its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with open_app(profile, Origin.parse(url)) as app:
            config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off")
            server = uvicorn.Server(config)
            task = asyncio.create_task(server.serve([listener]))
            try:
                yield url
            finally:
                server.should_exit = server.force_exit = True
                await task


@pytest.fixture
def profile_of_system(gatehouse: Testbed) -> Profile:
    return Profile(issuer=gatehouse.issuer, targets=dict(gatehouse.targets), ca_file=gatehouse.ca_file)


@pytest.fixture
async def live(stack: AsyncExitStack, profile_of_system: Profile) -> Browser:
    """A browser of a console that listens, in which alice is signed in."""
    url = await stack.enter_async_context(running(profile_of_system))
    browser = Browser(None, url)
    stack.push_async_callback(browser.aclose)
    await browser.sign_in("alice", return_to="/call")
    return browser


async def start(browser: Browser, **fields: str) -> httpx.Response:
    """Start to watch, and return the page of the call."""
    page = await browser.fill(await browser.get(WATCH), WATCH, fields)
    assert page.url.path.startswith("/calls/")
    return page


def path_of_events(page: httpx.Response) -> str:
    found = re.search(r'data-events="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


@asynccontextmanager
async def events(
    browser: Browser, path: str, **headers: str
) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
    """Yield the server-sent events of a call: kind and data."""

    async def read(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
        kind, data = "", []
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif not line and kind:
                yield kind, "\n".join(data)
                kind, data = "", []

    async with browser.http.stream("GET", f"{browser.origin}{path}", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield read(response)


async def shows(browser: Browser, page: httpx.Response, number: int) -> bool:
    """Return whether the page of a call has a response."""
    return f'<li data-number="{number}">' in (await browser.get(page.url.path)).text


async def rename(gatehouse: Testbed, profile: Profile, name: str) -> None:
    """Change the name of bob, as alice."""
    method = find_method(users_pb2.DESCRIPTOR.services_by_name["UserService"], "UpdateUser")
    user = users_pb2.User(user_id=gatehouse.users["bob"], display_name=name)
    request = users_pb2.UpdateUserRequest(user=user)
    async with open_channel(profile, "users") as channel:
        outcome = await call_once(channel, method, [request], token=gatehouse.token("alice"))
    assert outcome.code is grpc.StatusCode.OK


async def test_changes_appear_live_and_the_stream_is_cancelled_from_the_page(
    live: Browser, gatehouse: Testbed, profile_of_system: Profile
) -> None:
    page = await start(live)
    assert ">Running</h2>" in page.text
    # The first response has the token to resume with; nothing has changed yet.
    await eventually(lambda: shows(live, page, 1))
    page = await live.get(page.url.path)
    async with events(live, path_of_events(page)) as seen:
        await rename(gatehouse, profile_of_system, "<b>Bob</b>")
        kind, data = await anext(seen)
        assert kind == "response"
        assert "&lt;b&gt;Bob&lt;/b&gt;" in data
        assert "<b>" not in data
        again = await live.get(page.url.path)
        assert '<li data-number="2">' in again.text
        cancelled = await live.submit(page, f"{page.url.path}/cancel")
        assert "you have cancelled the call" in cancelled.text
        kind, data = await anext(seen)
        assert (kind, "CANCELLED" in data, "2 responses" in data) == ("end", True, True)
        with pytest.raises(StopAsyncIteration):
            await anext(seen)
    await eventually(lambda: [call.code for call in gatehouse.calls("WatchUsers")] == ["CANCELLED"])
    # A page that has lost its connection goes on where it was.
    async with events(live, path_of_events(page), **{"last-event-id": "1"}) as seen:
        assert [kind async for kind, _ in seen] == ["response", "end"]


async def test_stream_ends_at_its_deadline(live: Browser) -> None:
    page = await start(live, seconds="0.5")
    async with events(live, f"{page.url.path}/events") as seen:
        *_, (kind, data) = [event async for event in seen]
    assert (kind, ">DEADLINE_EXCEEDED</code>" in data) == ("end", True)
    page = await live.get(page.url.path)
    assert ">DEADLINE_EXCEEDED</code>" in page.text
    assert "data-events" not in page.text


async def test_streams_and_live_pages_of_a_session_are_bounded(live: Browser) -> None:
    pages = [await start(live, seconds="60") for _ in range(MAX_RUNNING + 1)]
    first = await live.get(pages[0].url.path)
    assert f"cancelled, because at most {MAX_RUNNING} of your calls run at once" in first.text
    assert "Running" in (await live.get(pages[1].url.path)).text
    async with AsyncExitStack() as stack:
        path = path_of_events(pages[-1]).partition("?")[0]
        readers = [await stack.enter_async_context(events(live, path)) for _ in range(MAX_READERS)]
        assert [(await anext(reader))[0] for reader in readers] == ["response"] * MAX_READERS
        assert (await live.get(path)).status_code == 429
    async with events(live, path) as seen:
        await anext(seen)
    for _ in range(7):
        await live.fill(await live.get(WATCH), WATCH, {"seconds": "0.1"})
    assert (await live.get(pages[0].url.path)).status_code == 404


async def test_sign_out_ends_the_streams(live: Browser, gatehouse: Testbed) -> None:
    page = await start(live)
    async with events(live, path_of_events(page)) as seen:
        await live.submit(page, "/sign-out")
        *_, (kind, data) = [event async for event in seen]
        assert (kind, "you have signed out" in data) == ("end", True)
    await eventually(lambda: [call.code for call in gatehouse.calls("WatchUsers")] == ["CANCELLED"])


async def test_end_of_the_console_ends_the_streams(gatehouse: Testbed, profile_of_system: Profile) -> None:
    async with running(profile_of_system) as url:
        browser = Browser(None, url)
        await browser.sign_in("alice", return_to="/call")
        page = await start(browser)
        async with events(browser, path_of_events(page).partition("?")[0]) as seen:
            await anext(seen)
        await browser.aclose()
        assert gatehouse.calls("WatchUsers") == []
    await eventually(lambda: [call.code for call in gatehouse.calls("WatchUsers")] == ["CANCELLED"])


async def test_call_of_another_session_is_not_found(live: Browser, stack: AsyncExitStack) -> None:
    page = await start(live)
    other = Browser(None, live.origin)
    stack.push_async_callback(other.aclose)
    own = await other.sign_in("bob", return_to="/call")
    assert (await other.get(page.url.path)).status_code == 404
    assert (await other.get(path_of_events(page))).status_code == 404
    assert (await other.submit(own, "/sign-out")).status_code == 200
    assert ">Running</h2>" in (await live.get(page.url.path)).text


def _run() -> Run:
    return Run(Call(policy_rows()[0], [], (), 1.0, {}), "session")


async def test_calls_of_all_sessions_are_bounded(profile: Profile) -> None:
    async with open_runs(profile) as runs:
        ended: list[Run] = []
        started = [runs.start(_run().call, str(n), "token", ended.append) for n in range(MAX_RUNNING_OF_ALL)]
        with pytest.raises(Problem) as caught:
            runs.start(_run().call, "another", "token", ended.append)
        assert caught.value.status == 503
    assert len(ended) == len(started) == MAX_RUNNING_OF_ALL
    assert all(run.outcome is not None for run in started)


def test_only_the_newest_responses_are_kept() -> None:
    run = _run()
    for number in range(MAX_RESPONSES + 5):
        run.add(users_pb2.User(display_name=str(number)))
    assert (run.count, len(run.responses), run.responses[0].number) == (MAX_RESPONSES + 5, MAX_RESPONSES, 6)
    run.add(users_pb2.User(display_name="x" * MAX_KEPT_CHARS))
    assert len(run.responses) == 1
    assert run.responses[0].text.endswith("(the rest is not shown)")


async def test_end_is_noted_once_and_wakes_who_waits() -> None:
    run = _run()
    waiting = asyncio.create_task(run.wait(60))
    await asyncio.sleep(0)
    run.end(Outcome(grpc.StatusCode.OK))
    await waiting
    run.end(Outcome(grpc.StatusCode.CANCELLED))
    assert run.outcome is not None
    assert run.outcome.code is grpc.StatusCode.OK
    await run.wait(60, until_end=True)
