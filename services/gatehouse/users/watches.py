"""The watches of WatchUsers: one reader follows the change feed for all watchers of the process.

The reader buffers the latest changes, and every watcher reads them at its own pace, so a watcher
costs neither a query nor a queue of its own. A watch that resumes further back first reads the older changes
itself, a few watchers at a time. A watcher that is slower than the feed is ended; it resumes with its last
token.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence

from gatehouse.domain import OutOfRange, Unavailable
from gatehouse.storage import Notifications
from gatehouse.users.change_feed import Change, ChangeFeed, Position, resume_token_too_old
from gatehouse.users.v1 import users_pb2 as pb

KEPT_CHANGES = 10_000
_POLL_SECONDS = 1.0
_READ_LIMIT = 500
_CATCH_UP_LIMIT = 100
_CONCURRENT_CATCH_UPS = 2
# A watcher holds this many changes at most while its client does not read.
_SLICE = 20
# Other calls run between two groups of watchers that a change wakes.
_WAKE_GROUP = 8


class Watches:
    """Streams the change feed to any number of watchers.

    Args:
        feed: The change feed.
        notifications: Wakes the reader when the feed has changed.
        kept: Number of changes that a watcher may be behind.
    """

    def __init__(self, feed: ChangeFeed, notifications: Notifications, kept: int = KEPT_CHANGES) -> None:
        self._feed = feed
        self._notifications = notifications
        self._kept = kept
        # All changes between `_start` and `_head`.
        self._changes: list[Change] = []
        self._start = self._head = Position(0, 0)
        self._following = False
        self._breaks = 0  # how often changes were lost, so that watches from before cannot continue
        self._watchers = 0
        self._idle: dict[asyncio.Future[None], None] = {}
        self._refreshes: list[asyncio.Future[None]] = []
        self._catch_ups = asyncio.Semaphore(_CONCURRENT_CATCH_UPS)
        self._tasks: list[asyncio.Task[None]] = []
        self._drains: set[asyncio.Event] = set()

    async def start(self) -> None:
        """Start the reader. It reads only while there are watchers."""
        self._tasks.append(asyncio.create_task(self._run()))

    async def aclose(self) -> None:
        """Stop the reader."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def follow(
        self, after: Position | None, draining: asyncio.Event
    ) -> AsyncGenerator[pb.WatchUsersResponse]:
        """Yield the position at which the watch starts, then every change after it, in order.

        Args:
            after: Where to resume; None starts with the next change.
            draining: Ends the watch.

        Raises:
            OutOfRange: The feed no longer has the changes since `after`.
            Unavailable: The watcher fell behind, the server is shutting down, or the database was unavailable
                when the watch started.
        """
        self._watchers += 1
        try:
            self._end_at(draining)
            await self._refresh()
            position = self._head if after is None else after
            if position > self._head:  # of another database, or of changes that this one has lost
                raise resume_token_too_old()
            breaks, caught_up = self._breaks, position >= self._start
            yield pb.WatchUsersResponse(resume_token=position.resume_token)
            while not draining.is_set():
                if breaks != self._breaks:
                    raise resume_token_too_old()
                if position >= self._start:
                    caught_up = True
                    changes = self._changes_after(position)
                elif caught_up:
                    raise Unavailable(
                        "WATCH_FELL_BEHIND", "the watcher is too slow; resume the watch with its last token"
                    )
                else:
                    async with self._catch_ups:
                        page = await self._feed.read(position, _CATCH_UP_LIMIT)
                    changes, position = page.changes, position if page.changes else page.end
                for change in changes:
                    position = change.position
                    yield change.response
                if caught_up and not changes:
                    await self._next_change()
            raise Unavailable("SERVER_DRAINING", "the server is shutting down; resume the watch")
        finally:
            self._watchers -= 1

    def _changes_after(self, position: Position) -> Sequence[Change]:
        first = bisect_right(self._changes, position, key=lambda change: change.position)
        return self._changes[first : first + _SLICE]

    async def _next_change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._idle[future] = None
        try:
            await future
        finally:
            self._idle.pop(future, None)

    def _end_at(self, draining: asyncio.Event) -> None:
        """Wake all watchers when the server begins to stop."""

        async def wake() -> None:
            await draining.wait()
            await self._wake()

        if draining not in self._drains:
            self._drains.add(draining)
            self._tasks.append(asyncio.create_task(wake()))

    async def _refresh(self) -> None:
        """Wait for a read that began after this call; all watchers that start meanwhile share it."""
        future = asyncio.get_running_loop().create_future()
        self._refreshes.append(future)
        self._notifications.wake()
        await future

    async def _run(self) -> None:
        while True:
            await self._notifications.wait(_POLL_SECONDS)
            refreshes, self._refreshes = self._refreshes, []
            if not self._watchers:
                self._changes, self._following = [], False
                continue
            known = self._breaks, self._changes[-1:]
            error = await self._read()
            for future in refreshes:
                if not future.done():
                    future.set_result(None) if error is None else future.set_exception(error)
            if known != (self._breaks, self._changes[-1:]):
                await self._wake()
            elif error is not None and not isinstance(error, Unavailable):
                await self._wake(error)

    async def _read(self) -> Exception | None:
        """Read what is new and return None, or why it failed.

        During an outage the watches stay open, and continue without a gap after it.
        """
        try:
            while not await self._read_page():
                pass
        except Exception as error:  # noqa: BLE001 - no error may end the reader
            return error
        return None

    async def _read_page(self) -> bool:
        """Read a page; return whether it was the last one."""
        try:
            if self._following:
                page = await self._feed.read(self._head, _READ_LIMIT)
            else:
                page = await self._feed.read_latest(_READ_LIMIT)
                self._changes, self._start, self._following = [], page.start, True
        except OutOfRange:  # the database has lost changes, or was unavailable for longer than it keeps them
            self._breaks += 1
            self._following = False
            return False
        self._changes += page.changes
        self._head = page.end
        # Twice as many as are kept, so that a deletion, which moves the rest, is rare.
        if len(self._changes) > 2 * self._kept:
            excess = len(self._changes) - self._kept
            self._start = self._changes[excess - 1].position
            del self._changes[:excess]
        return page.complete

    async def _wake(self, error: Exception | None = None) -> None:
        """Wake the idle watchers, or end them with `error`."""
        idle, self._idle = list(self._idle), {}
        for number, future in enumerate(idle, 1):
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(error)
            if number % _WAKE_GROUP == 0:
                await asyncio.sleep(0)
