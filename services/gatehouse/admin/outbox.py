"""The outbox of role changes: written with each change, read by the workers that deliver them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.admin.tables import CHANNEL, role_outbox
from gatehouse.storage import Database, new_id

# Longer than an attempt takes, so that no other worker starts while one may still be running.
LEASE_SECONDS = 30.0
RETENTION = timedelta(hours=24)
_KEY = (role_outbox.c.user_id, role_outbox.c.role)
_PENDING = role_outbox.c.done_time.is_(None)


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a user at an issuer: `iss` and `sub`, both "" while unknown."""

    issuer: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class RoleChange:
    """A role change to deliver, leased to the worker that claimed it.

    Attributes:
        user_id: UUID of the user in UserService.
        role: Name of the role.
        granted: True to grant the role, False to revoke it.
        identity: Identity of the user when the role was changed.
        traceparent: Trace context of the call that changed the role, or "".
        attempts: Number of attempts so far, including this one.
        change_id: Id of the change; a newer change of the same user and role has another.
        lease_id: Id of the lease.
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
    """The number of pending changes, and the age of the oldest one in seconds."""

    pending: int = 0
    oldest_seconds: float = 0.0


async def enqueue(
    connection: AsyncConnection,
    user_id: uuid.UUID,
    identity: Identity,
    changes: Sequence[tuple[str, bool]],
    clock: Callable[[], float],
) -> None:
    """Add changes to the outbox, in the transaction of `connection`.

    A change replaces an older one of the same user and role. If the older one is being delivered, its lease
    stays, so the new change is not claimed before that delivery has ended.

    Args:
        connection: Connection in a transaction that excludes concurrent changes of this user.
        user_id: The user.
        identity: Identity of the user, as far as it is known.
        changes: Roles, and whether each is granted.
        clock: Seconds since the epoch.
    """
    if not changes:
        return
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    statement = insert(role_outbox).values(
        [
            {
                "user_id": user_id,
                "role": role,
                "change_id": new_id(clock),
                "granted": granted,
                "issuer": identity.issuer,
                "subject": identity.subject,
                "traceparent": carrier.get("traceparent", ""),
                "change_time": datetime.fromtimestamp(clock(), UTC),
                "attempts": 0,
                "due_time": sa.func.now(),
            }
            for role, granted in sorted(changes)
        ]
    )
    kept = {"user_id", "role", "lease_id", "lease_end", "done_time"}
    replaced = {c.name: statement.excluded[c.name] for c in role_outbox.c if c.name not in kept}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_={**replaced, "done_time": None})
    )
    await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


class RoleOutbox:
    """The outbox as workers use it. Times come from the database, so that all replicas agree on them.

    Args:
        database: Connection pool of the login role of AdminService.
        lease_seconds: Time for which a claimed change belongs to its worker.
    """

    def __init__(self, database: Database, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_seconds)

    async def claim(self, limit: int) -> list[RoleChange]:
        """Lease up to `limit` changes that are due and not leased."""
        table = role_outbox
        due = (
            sa.select(*_KEY)
            .where(
                _PENDING,
                table.c.due_time <= sa.func.now(),
                sa.or_(table.c.lease_end.is_(None), table.c.lease_end <= sa.func.now()),
            )
            .order_by(table.c.due_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        lease_id = uuid.uuid4()
        statement = (
            table.update()
            .where(table.c.user_id == due.c.user_id, table.c.role == due.c.role)
            .values(lease_id=lease_id, lease_end=sa.func.now() + self._lease, attempts=table.c.attempts + 1)
            .returning(table)
        )
        async with self._database.write() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            RoleChange(
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

    async def complete(self, change: RoleChange) -> None:
        """End the lease and mark the change as done, unless a newer change has replaced it."""
        done = sa.case((role_outbox.c.change_id == change.change_id, sa.func.now()))
        await self._update(change, {"lease_id": None, "lease_end": None, "done_time": done})

    async def reschedule(self, change: RoleChange, seconds: float, *, uncertain: bool) -> None:
        """Retry the change after `seconds`, unless a newer change has replaced it.

        Args:
            change: Change that was not delivered.
            seconds: Time until it is due.
            uncertain: Whether the provider may still apply this attempt. The lease then stays until its end,
                so that no newer change is delivered before this attempt.
        """
        later = sa.func.now() + timedelta(seconds=seconds)
        due = sa.case((role_outbox.c.change_id == change.change_id, later), else_=role_outbox.c.due_time)
        lease = {} if uncertain else {"lease_id": None, "lease_end": None}
        await self._update(change, {"due_time": due, **lease})

    async def _update(self, change: RoleChange, values: Mapping[str, object]) -> None:
        statement = role_outbox.update().where(
            role_outbox.c.user_id == change.user_id,
            role_outbox.c.role == change.role,
            # Another worker may have claimed the change after this lease ended.
            role_outbox.c.lease_id == change.lease_id,
        )
        async with self._database.write() as connection:
            await connection.execute(statement.values(values))

    async def backlog(self) -> Backlog:
        """Return how many changes are pending, and since when."""
        age = sa.func.extract("epoch", sa.func.now() - sa.func.min(role_outbox.c.change_time))
        query = sa.select(sa.func.count(), sa.func.coalesce(age, 0)).where(_PENDING)
        async with self._database.read() as connection:
            pending, oldest = (await connection.execute(query)).one()
        return Backlog(pending, max(0.0, float(oldest)))

    async def prune(self) -> int:
        """Delete changes that were done before RETENTION; return their number."""
        expired = role_outbox.c.done_time < sa.func.now() - RETENTION
        async with self._database.write() as connection:
            deleted = await connection.execute(role_outbox.delete().where(expired).returning(*_KEY))
            return len(deleted.all())
