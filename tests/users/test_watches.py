"""One reader of the change feed for all watches of a process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from gatehouse.domain import OutOfRange, Unavailable
from gatehouse.storage import Database, Notifications
from gatehouse.users.change_feed import ChangeFeed, FeedPage, Position
from gatehouse.users.tables import CHANNEL
from gatehouse.users.v1 import users_pb2 as pb
from gatehouse.users.watches import Watches
from tests.support.services import run_sql

Watch = AsyncGenerator[pb.WatchUsersResponse]
PATIENCE_SECONDS = 60


class CountingFeed(ChangeFeed):
    """Counts its reads."""

    reads = 0

    async def read(self, after: Position, limit: int) -> FeedPage:
        self.reads += 1
        return await super().read(after, limit)

    async def read_latest(self, limit: int) -> FeedPage:
        self.reads += 1
        return await super().read_latest(limit)


class Env:
    """A change feed and its watches on the database at `urls`."""

    def __init__(self, urls: dict[str, str], feed: CountingFeed, watches: Watches) -> None:
        self.urls, self.feed, self.watches = urls, feed, watches
        self.draining = asyncio.Event()
        self._added = 0

    async def open(self, token: str = "") -> tuple[Watch, str]:
        """Open a watch; return it and the token of its first response."""
        watch = self.watches.follow(Position.parse(token) if token else None, self.draining)
        return watch, (await anext(watch)).resume_token

    async def add(self, count: int) -> list[int]:
        """Add changes in one transaction, and return the kinds that tell them apart."""
        first, self._added = self._added + 1, self._added + count
        await run_sql(
            self.urls["users"],
            "WITH added AS (INSERT INTO users.user_changes (xid, kind, message, change_time)"
            " SELECT pg_current_xact_id()::text::bigint, n, '', now() FROM generate_series(%s::int, %s) n"
            " ORDER BY n RETURNING 1) SELECT pg_notify(%s, '') FROM (SELECT count(*) FROM added)",
            [first, self._added, CHANNEL],
        )
        return list(range(first, self._added + 1))


@asynccontextmanager
async def open_env(urls: dict[str, str], kept: int = 1000) -> AsyncIterator[Env]:
    database = Database(urls["users"], pool_size=3)
    notifications = Notifications(database.connector, CHANNEL)
    feed = CountingFeed(database, time.time)
    watches = Watches(feed, notifications, kept)
    await notifications.start()
    await watches.start()
    yield Env(urls, feed, watches)
    await watches.aclose()
    await notifications.aclose()
    await database.aclose()


@pytest.fixture
async def env(database_urls: dict[str, str]) -> AsyncIterator[Env]:
    async with open_env(database_urls) as opened:
        yield opened


async def take(watch: Watch, count: int) -> list[pb.WatchUsersResponse]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [await anext(watch) for _ in range(count)]


async def test_watches_share_one_reader(env: Env) -> None:
    first, _ = await env.open()
    before = env.feed.reads
    opened = await asyncio.gather(*(env.open() for _ in range(300)))
    assert env.feed.reads - before < 10
    before = env.feed.reads
    began = time.monotonic()
    added = await env.add(3)
    for watch in (first, *(watch for watch, _ in opened)):
        assert [response.change for response in await take(watch, 3)] == added
    assert env.feed.reads - before < 10 + (time.monotonic() - began)  # it also polls once a second


async def test_watch_starts_after_all_changes_that_were_committed_before_it(env: Env) -> None:
    first, _ = await env.open()
    for _ in range(5):
        await env.add(2)
        watch, _ = await env.open()
        async with aclosing(watch):
            added = await env.add(1)
            assert [response.change for response in await take(watch, 1)] == added
    await first.aclose()


async def test_watcher_that_falls_behind_is_ended_and_resumes_without_a_gap(
    database_urls: dict[str, str],
) -> None:
    async with open_env(database_urls, kept=30) as env:
        slow, token = await env.open()
        seen = []
        quick, _ = await env.open()
        added = []
        for _ in range(6):
            added += await env.add(30)
            await take(quick, 30)

        async def read_slowly() -> None:
            nonlocal token
            async for response in slow:
                token = response.resume_token
                seen.append(response.change)

        with pytest.raises(Unavailable) as caught:
            await read_slowly()
        assert caught.value.reason == "WATCH_FELL_BEHIND"
        resumed, same = await env.open(token)
        assert same == token
        seen += [response.change for response in await take(resumed, len(added) - len(seen))]
        assert seen == added
        # It has caught up, and follows the others.
        added = await env.add(1)
        assert [response.change for response in await take(resumed, 1)] == added


@pytest.mark.parametrize("kept", [30, 1000])
async def test_watch_resumes_at_any_earlier_change(env: Env, kept: int) -> None:
    watch, _ = await env.open()
    added = await env.add(250)
    responses = await take(watch, 250)
    async with open_env(env.urls, kept) as other:
        for number in (0, 100, 248, 249):
            resumed, _ = await other.open(responses[number].resume_token)
            added += await env.add(1)
            rest = await take(resumed, len(added) - number - 1)
            assert [response.change for response in rest] == added[number + 1 :]


async def test_watch_outlasts_an_outage_of_the_database(env: Env) -> None:
    watch, _ = await env.open()
    owner = env.urls["owner"]
    await run_sql(owner, "ALTER ROLE gatehouse_users NOLOGIN")
    try:
        await run_sql(
            owner,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'gatehouse_users'",
        )
        with pytest.raises(Unavailable):
            await env.open()
    finally:
        await run_sql(owner, "ALTER ROLE gatehouse_users LOGIN")
    added = await env.add(2)
    assert [response.change for response in await take(watch, 2)] == added


async def test_token_of_another_database_is_out_of_range(env: Env) -> None:
    with pytest.raises(OutOfRange):
        await env.open(Position(2**60, 1).resume_token)


async def test_watches_end_if_the_feed_has_lost_changes(env: Env) -> None:
    watch, _ = await env.open()
    waiting = asyncio.create_task(take(watch, 1))
    owner = env.urls["owner"]
    await run_sql(owner, "UPDATE users.change_feed SET pruned_xid = 2^60")
    try:
        with pytest.raises(OutOfRange):
            await waiting
    finally:
        await run_sql(owner, "UPDATE users.change_feed SET pruned_xid = 0")


async def test_all_watches_end_when_the_server_shuts_down(env: Env) -> None:
    watches = [(await env.open())[0] for _ in range(20)]
    waiting = [asyncio.create_task(take(watch, 1)) for watch in watches]
    env.draining.set()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, Unavailable)
        assert result.reason == "SERVER_DRAINING"
