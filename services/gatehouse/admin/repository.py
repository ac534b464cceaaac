"""SQL of AdminService."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from gatehouse.admin.outbox import Identity, enqueue
from gatehouse.admin.tables import audit_events, role_bindings
from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.domain import InvalidArgument
from gatehouse.storage import (
    Actor,
    Database,
    Page,
    append_audit,
    page_size,
    read_page_token,
    write_page_token,
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures that were true at one moment."""

    role_counts: Mapping[str, int]
    audit_event_count: int
    moment: datetime


def _binding(row: Any) -> pb.RoleBinding:
    binding = pb.RoleBinding(user_id=str(row.user_id), role=row.role, granted_by=row.granted_by)
    binding.create_time.FromDatetime(row.create_time)
    return binding


def _event(row: Any) -> pb.AuditEvent:
    event = pb.AuditEvent(
        audit_event_id=str(row.audit_event_id),
        method=row.method,
        subject=row.subject,
        client_id=row.client_id,
        resource=row.resource,
        action=row.action,
        trace_id=row.trace_id,
    )
    event.event_time.FromDatetime(row.event_time)
    return event


def _id(value: object) -> uuid.UUID:
    try:
        return uuid.UUID(str(value))
    except ValueError:
        raise InvalidArgument(
            "page_token", "PAGE_TOKEN_MALFORMED", "the page token is none that this server made"
        ) from None


class AdminRepository:
    """Reads and writes role bindings, and reads the audit trail.

    Args:
        database: Of the login role of AdminService.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def figures(self, deadline: float | None = None) -> Figures:
        """Counts bindings and events in one snapshot."""
        async with self._database.snapshot(deadline) as connection:
            rows = await connection.execute(
                sa.select(role_bindings.c.role, sa.func.count())
                .group_by(role_bindings.c.role)
                .order_by(role_bindings.c.role)
            )
            counts = {role: count for role, count in rows}  # noqa: C416 - rows are not pairs to dict()
            events, moment = (
                await connection.execute(sa.select(sa.func.count(), sa.func.now()).select_from(audit_events))
            ).one()
        return Figures(counts, events, moment)

    async def list_events(
        self, resource: str, subject: str, token: str, size: int, deadline: float | None = None
    ) -> Page[pb.AuditEvent]:
        """Returns one page of events, newest first."""
        query = f"events\n{resource}\n{subject}"
        after = read_page_token(query, token, (str,))
        statement = sa.select(audit_events).order_by(audit_events.c.audit_event_id.desc())
        if resource:
            statement = statement.where(audit_events.c.resource == resource)
        if subject:
            statement = statement.where(audit_events.c.subject == subject)
        if after is not None:
            statement = statement.where(audit_events.c.audit_event_id < _id(after[0]))
        limit = page_size(size)
        async with self._database.read(deadline) as connection:
            rows = (await connection.execute(statement.limit(limit + 1))).all()
        more = len(rows) > limit
        next_token = write_page_token(query, (str(rows[limit - 1].audit_event_id),)) if more else ""
        return Page([_event(row) for row in rows[:limit]], next_token)

    async def list_bindings(
        self, user_id: str, role: str, token: str, size: int, deadline: float | None = None
    ) -> Page[pb.RoleBinding]:
        """Returns one page of bindings, by user and role."""
        query = f"bindings\n{user_id}\n{role}"
        after = read_page_token(query, token, (str, str))
        table = role_bindings
        statement = sa.select(table).order_by(table.c.user_id, table.c.role)
        if user_id:
            statement = statement.where(table.c.user_id == uuid.UUID(user_id))
        if role:
            statement = statement.where(table.c.role == role)
        if after is not None:
            edge = sa.tuple_(sa.literal(_id(after[0]), table.c.user_id.type), sa.literal(str(after[1])))
            statement = statement.where(sa.tuple_(table.c.user_id, table.c.role) > edge)
        limit = page_size(size)
        async with self._database.read(deadline) as connection:
            rows = (await connection.execute(statement.limit(limit + 1))).all()
        last = rows[limit - 1] if len(rows) > limit else None
        next_token = "" if last is None else write_page_token(query, (str(last.user_id), last.role))
        return Page([_binding(row) for row in rows[:limit]], next_token)

    async def change(
        self,
        user_id: str,
        grant: Sequence[str],
        revoke: Sequence[str],
        actor: Actor,
        deadline: float | None = None,
        *,
        identity: Identity | None = None,
        traceparent: str = "",
    ) -> list[pb.RoleBinding]:
        """Grants and revokes roles in one transaction; only what changes is in the trail and the outbox.

        Args:
            user_id: UUID of the user.
            grant: Roles to grant.
            revoke: Roles to revoke.
            actor: Who does it.
            deadline: Seconds that are left, None without end.
            identity: Of the user at the identity provider, as far as it is known.
            traceparent: Trace context of the call, or "".

        Returns:
            All bindings of the user afterwards.
        """
        key = uuid.UUID(user_id)
        table = role_bindings
        now = datetime.fromtimestamp(self._clock(), UTC)
        async with self._database.write(deadline) as connection:
            # One change of a user at a time: what is put into the outbox last is what was written last.
            lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(str(key), 0))
            await connection.execute(sa.select(lock))
            changed: list[tuple[str, bool]] = []
            if grant:
                granted = await connection.execute(
                    insert(table)
                    .values(
                        [
                            {"user_id": key, "role": role, "create_time": now, "granted_by": actor.subject}
                            for role in sorted(grant)
                        ]
                    )
                    .on_conflict_do_nothing()
                    .returning(table.c.role)
                )
                changed += [(role, True) for role in granted.scalars()]
            if revoke:
                revoked = await connection.execute(
                    table.delete()
                    .where(table.c.user_id == key, table.c.role.in_(sorted(revoke)))
                    .returning(table.c.role)
                )
                changed += [(role, False) for role in revoked.scalars()]
            events = [
                ("role.granted" if granted else "role.revoked", f"users/{key}/roles/{role}")
                for role, granted in changed
            ]
            await append_audit(connection, audit_events, actor, events, self._clock)
            await enqueue(connection, key, changed, identity or Identity(), traceparent, self._clock)
            rows = await connection.execute(
                sa.select(table).where(table.c.user_id == key).order_by(table.c.role)
            )
            return [_binding(row) for row in rows]
