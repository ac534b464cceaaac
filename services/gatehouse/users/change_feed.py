"""The change feed of the user directory, which WatchUsers streams.

Changes are ordered by transaction id, then by position. Transactions do not commit in the order of their ids,
so readers stop at the horizon: the id of the oldest transaction that is still running. Nothing can be added
below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.domain import InvalidArgument, OutOfRange
from gatehouse.storage import Database
from gatehouse.users.tables import CHANNEL, change_feed, user_changes
from gatehouse.users.v1 import users_pb2 as pb

RETENTION = timedelta(days=7)
PRUNE_BATCH = 5_000
_MAX_BIGINT = 2**63 - 1
_HORIZON = sa.cast(sa.cast(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()), sa.Text), sa.BigInteger)
_CURRENT_XID = sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger)


class Position(NamedTuple):
    """A place in the feed, after the change with this transaction id and position."""

    xid: int
    position: int

    @property
    def resume_token(self) -> str:
        """`resume_token` of WatchUsers for this position."""
        return f"{self.xid:x}.{self.position:x}"

    @classmethod
    def parse(cls, resume_token: str) -> Self:
        """Return the position in a resume token.

        Raises:
            InvalidArgument: The token is invalid.
        """
        try:
            xid, position = (int(part, 16) for part in resume_token.split("."))
        except ValueError:
            xid = position = -1
        if not (0 <= xid <= _MAX_BIGINT and 0 <= position <= _MAX_BIGINT):
            raise InvalidArgument("resume_token", "RESUME_TOKEN_MALFORMED", "resume_token: invalid")
        return cls(xid, position)


class Change(NamedTuple):
    """A change of a user: its place in the feed, and the response that reports it to all watchers."""

    position: Position
    response: pb.WatchUsersResponse


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Consecutive changes.

    Attributes:
        start: Position before these changes.
        changes: The changes, in order.
        end: Position after them: all changes up to it have been read.
        complete: Whether `end` is after all changes so far.
    """

    start: Position
    changes: Sequence[Change]
    end: Position
    complete: bool


async def append_changes(
    connection: AsyncConnection, kind: pb.UserChange.ValueType, users: Sequence[pb.User], now: datetime
) -> None:
    """Add a change of each user to the feed and wake its readers, in the transaction of `connection`."""
    await connection.execute(
        user_changes.insert().values(
            xid=_CURRENT_XID, kind=kind, message=sa.bindparam("serialized"), change_time=now
        ),
        [{"serialized": user.SerializeToString()} for user in users],
    )
    await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


class ChangeFeed:
    """Read and prune the change feed.

    Args:
        database: Connection pool of the login role of UserService.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def read(self, after: Position, limit: int) -> FeedPage:
        """Return up to `limit` changes after a position.

        Raises:
            OutOfRange: Changes after this position were pruned, or the database has lost changes before it.
        """
        key = sa.tuple_(user_changes.c.xid, user_changes.c.position)
        newer = sa.select(user_changes).where(key > sa.tuple_(*map(sa.literal, after)))
        pruned, horizon, changes = await self._fetch(
            newer.order_by(user_changes.c.xid, user_changes.c.position).limit(limit)
        )
        if not pruned <= after < Position(horizon, 0):
            raise resume_token_too_old()
        complete = len(changes) < limit
        return FeedPage(after, changes, _end(horizon) if complete else changes[-1].position, complete)

    async def read_latest(self, limit: int) -> FeedPage:
        """Return the last `limit` changes, or all that were not pruned if there are fewer."""
        newest = sa.select(user_changes).order_by(user_changes.c.xid.desc(), user_changes.c.position.desc())
        pruned, horizon, changes = await self._fetch(newest.limit(limit + 1))
        start = changes.pop(0).position if len(changes) > limit else pruned
        return FeedPage(start, changes, _end(horizon), complete=True)

    async def _fetch(self, query: sa.Select[Any]) -> tuple[Position, int, list[Change]]:
        """Return the pruned position, the horizon, and the changes of `query` below it, in one snapshot."""
        feed = sa.select(change_feed, _HORIZON.label("horizon")).subquery("feed")
        page = query.where(user_changes.c.xid < feed.c.horizon).lateral("page")
        statement = sa.select(feed, page).select_from(feed.outerjoin(page, sa.true()))
        async with self._database.read() as connection:
            rows = (await connection.execute(statement.order_by(page.c.xid, page.c.position))).all()
        first = rows[0]  # without changes there is one row
        changes = [_to_change(row) for row in rows if row.xid is not None]
        return Position(first.pruned_xid, first.pruned_position), first.horizon, changes

    async def prune(self) -> int:
        """Delete changes older than RETENTION; return their number."""
        before = datetime.fromtimestamp(self._clock(), UTC) - RETENTION
        total, deleted = 0, PRUNE_BATCH
        while deleted == PRUNE_BATCH:
            deleted = await self._prune_batch(before)
            total += deleted
        return total

    async def _prune_batch(self, before: datetime) -> int:
        table = user_changes
        oldest = (
            sa.select(table.c.xid, table.c.position)
            .where(table.c.change_time < before)
            .order_by(table.c.xid, table.c.position)
            .limit(PRUNE_BATCH)
        )
        key = sa.tuple_(table.c.xid, table.c.position)
        delete = table.delete().where(key.in_(oldest)).returning(table.c.xid, table.c.position)
        async with self._database.write() as connection:
            # Replicas prune one at a time, so that the pruned position only increases.
            pruned = (await connection.execute(sa.select(change_feed).with_for_update())).one()
            rows = (await connection.execute(delete)).all()
            if rows:
                xid, position = max(
                    (pruned.pruned_xid, pruned.pruned_position), *((r.xid, r.position) for r in rows)
                )
                await connection.execute(
                    change_feed.update().values(pruned_xid=xid, pruned_position=position)
                )
        return len(rows)


def resume_token_too_old() -> OutOfRange:
    """Return the error for a position whose following changes are no longer known."""
    return OutOfRange(
        "RESUME_TOKEN_TOO_OLD",
        "resume_token: the change feed no longer has the changes since then; list the users and watch again"
        " without a token",
    )


def _end(horizon: int) -> Position:
    return Position(horizon - 1, _MAX_BIGINT)


def _to_change(row: Any) -> Change:
    position = Position(row.xid, row.position)
    user = pb.User.FromString(bytes(row.message))
    response = pb.WatchUsersResponse(change=row.kind, user=user, resume_token=position.resume_token)
    return Change(position, response)
