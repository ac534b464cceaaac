"""SQL of the outbox: what the identity provider has still to hear, who brings it, and what it has heard."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.admin.tables import CHANNEL, role_outbox
from gatehouse.storage import Database, new_id

# Longer than any attempt takes: nobody else tries while one may still be under way.
LEASE_SECONDS = 30.0
DONE_LIFE = timedelta(hours=24)
_TABLE = role_outbox
_KEY = (_TABLE.c.user_id, _TABLE.c.role)
_PENDING = _TABLE.c.done_time.is_(None)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a user is at an identity provider; both "" when the user has not been seen yet."""

    issuer: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is to be delivered, leased to the one who claimed it.

    Attributes:
        user_id: UUID of the user in UserService.
        role: Name of the role.
        granted: Whether the user is to have it.
        identity: Who the user was when the change was made.
        traceparent: Trace context of the call that made it, or "".
        attempts: How often it was tried, this time included.
        change_id: Of this change; a newer one of the same user and role has another.
        lease_id: Of this lease.
    """

    user_id: uuid.UUID
    role: str
    granted: bool
    identity: Identity
    traceparent: str
    attempts: int
    change_id: uuid.UUID
    lease_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far the provider is behind: changes, and seconds since the oldest of them."""

    pending: int
    oldest_seconds: float


async def enqueue(
    connection: AsyncConnection,
    user_id: uuid.UUID,
    changes: Sequence[tuple[str, bool]],
    identity: Identity,
    traceparent: str,
    clock: Callable[[], float],
) -> None:
    """Puts changes into the outbox, in the transaction of `connection`.

    A change that was not delivered yet gives way to a newer one of the same user and role. A delivery
    that is under way keeps its lease, so the newer one is not begun before it has ended.

    Args:
        connection: In a transaction that holds back other changes of this user.
        user_id: The user.
        changes: Role, and whether it is granted.
        identity: Of the user, as far as it is known.
        traceparent: Trace context of the call, or "".
        clock: Seconds since the epoch.
    """
    if not changes:
        return
    statement = insert(_TABLE).values(
        [
            {
                "user_id": user_id,
                "role": role,
                "change_id": new_id(clock),
                "granted": granted,
                "issuer": identity.issuer,
                "subject": identity.subject,
                "traceparent": traceparent,
                "change_time": datetime.fromtimestamp(clock(), UTC),
                "attempts": 0,
                "due_time": sa.func.now(),
            }
            for role, granted in sorted(changes)
        ]
    )
    kept = {"user_id", "role", "lease_id", "lease_end", "done_time"}
    newer = {c.name: statement.excluded[c.name] for c in _TABLE.c if c.name not in kept}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_={**newer, "done_time": None})
    )
    await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


class RoleOutbox:
    """The worker's side of the outbox. Times are the database's: replicas must agree on them.

    Args:
        database: Of the login role of AdminService.
        lease_seconds: How long a change belongs to the one who claimed it.
    """

    def __init__(self, database: Database, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_seconds)

    async def claim(self, limit: int) -> list[Change]:
        """Leases up to `limit` changes that are due and that nobody else has."""
        due = (
            sa.select(*_KEY)
            .where(
                _PENDING,
                _TABLE.c.due_time <= sa.func.now(),
                sa.or_(_TABLE.c.lease_end.is_(None), _TABLE.c.lease_end <= sa.func.now()),
            )
            .order_by(_TABLE.c.due_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        lease_id = uuid.uuid4()
        statement = (
            _TABLE.update()
            .where(_TABLE.c.user_id == due.c.user_id, _TABLE.c.role == due.c.role)
            .values(lease_id=lease_id, lease_end=sa.func.now() + self._lease, attempts=_TABLE.c.attempts + 1)
            .returning(_TABLE)
        )
        async with self._database.write() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            Change(
                user_id=row.user_id,
                role=row.role,
                granted=row.granted,
                identity=Identity(row.issuer, row.subject),
                traceparent=row.traceparent,
                attempts=row.attempts,
                change_id=row.change_id,
                lease_id=lease_id,
            )
            for row in rows
        ]

    async def finish(self, change: Change) -> None:
        """Ends the lease; the change is done, unless a newer one has taken its place."""
        done = sa.case((_TABLE.c.change_id == change.change_id, sa.func.now()))
        await self._end(change, {"lease_id": None, "lease_end": None, "done_time": done})

    async def put_back(self, change: Change, seconds: float, *, uncertain: bool) -> None:
        """Has the change tried again, in `seconds` at the earliest; a newer one is due as it was.

        Args:
            change: What was not delivered.
            seconds: Until it is due.
            uncertain: Whether the provider may still do what it was asked: then the lease runs on to its
                end, so that nothing newer can overtake it.
        """
        later = sa.func.now() + timedelta(seconds=seconds)
        values: dict[str, object] = {
            "due_time": sa.case((_TABLE.c.change_id == change.change_id, later), else_=_TABLE.c.due_time)
        }
        if not uncertain:
            values |= {"lease_id": None, "lease_end": None}
        await self._end(change, values)

    async def _end(self, change: Change, values: dict[str, object]) -> None:
        statement = _TABLE.update().where(
            _TABLE.c.user_id == change.user_id,
            _TABLE.c.role == change.role,
            # A lease that ran out may be somebody else's by now.
            _TABLE.c.lease_id == change.lease_id,
        )
        async with self._database.write() as connection:
            await connection.execute(statement.values(values))

    async def backlog(self) -> Backlog:
        """Returns how far the provider is behind."""
        age = sa.func.extract("epoch", sa.func.now() - sa.func.min(_TABLE.c.change_time))
        async with self._database.read() as connection:
            query = sa.select(sa.func.count(), sa.func.coalesce(age, 0)).where(_PENDING)
            pending, oldest = (await connection.execute(query)).one()
        return Backlog(pending, max(0.0, float(oldest)))

    async def prune(self) -> int:
        """Removes what was delivered more than DONE_LIFE ago; returns how much it was."""
        async with self._database.write() as connection:
            gone = await connection.execute(
                _TABLE.delete().where(_TABLE.c.done_time < sa.func.now() - DONE_LIFE).returning(*_KEY)
            )
            return len(gone.all())
