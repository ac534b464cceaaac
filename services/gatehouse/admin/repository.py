"""SQL of AdminService: role bindings and the audit trail."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from gatehouse.admin.outbox import Identity, enqueue
from gatehouse.admin.tables import audit_events, role_bindings, role_outbox
from gatehouse.admin.v1 import admin_pb2 as pb
from gatehouse.storage import Caller, Database, Page, PageRequest, append_audit, fetch_page


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts from one snapshot of the database.

    Attributes:
        role_counts: Number of users by role.
        audit_event_count: Number of audit events.
        snapshot_time: Time of the snapshot.
    """

    role_counts: Mapping[str, int]
    audit_event_count: int
    snapshot_time: datetime


class AdminRepository:
    """Read and write role bindings, and read the audit trail.

    `timeout` is in seconds, None for the default of Database; `caller` is the caller for the audit trail.

    Args:
        database: Connection pool of the login role of AdminService.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def statistics(self, timeout: float | None = None) -> Statistics:
        """Count role bindings and audit events."""
        by_role = (
            sa.select(role_bindings.c.role, sa.func.count())
            .group_by(role_bindings.c.role)
            .order_by(role_bindings.c.role)
        )
        async with self._database.snapshot(timeout) as connection:
            role_counts: dict[str, int] = dict((await connection.execute(by_role)).all())
            events, now = (
                await connection.execute(sa.select(sa.func.count(), sa.func.now()).select_from(audit_events))
            ).one()
        return Statistics(role_counts, events, now)

    async def list_audit_events(
        self, resource: str, subject: str, issuer: str, page: PageRequest, timeout: float | None = None
    ) -> Page[pb.AuditEvent]:
        """Return a page of audit events, newest first; filters that are "" match all.

        Raises:
            PageTokenError: The page token is invalid.
        """
        statement = sa.select(audit_events)
        if resource:
            statement = statement.where(audit_events.c.resource == resource)
        if subject:
            statement = statement.where(audit_events.c.subject == subject)
        if issuer:
            statement = statement.where(audit_events.c.issuer == issuer)
        return await fetch_page(
            self._database,
            statement,
            (audit_events.c.audit_event_id,),
            _to_audit_event,
            page,
            query=f"events\n{resource}\n{subject}\n{issuer}",
            descending=True,
            timeout=timeout,
        )

    async def list_role_bindings(
        self, user_id: str, role: str, page: PageRequest, timeout: float | None = None
    ) -> Page[pb.RoleBinding]:
        """Return a page of role bindings, ordered by user and role; filters that are "" match all.

        Raises:
            PageTokenError: The page token is invalid.
        """
        statement = sa.select(role_bindings)
        if user_id:
            statement = statement.where(role_bindings.c.user_id == uuid.UUID(user_id))
        if role:
            statement = statement.where(role_bindings.c.role == role)
        return await fetch_page(
            self._database,
            statement,
            (role_bindings.c.user_id, role_bindings.c.role),
            _to_role_binding,
            page,
            query=f"bindings\n{user_id}\n{role}",
            timeout=timeout,
        )

    async def list_role_changes(
        self, user_id: str, page: PageRequest, timeout: float | None = None, *, pending: bool = False
    ) -> Page[pb.RoleChange]:
        """Return a page of role changes, newest first.

        Args:
            user_id: UUID of a user; "" matches all.
            page: The page.
            timeout: See the class.
            pending: Whether to return only changes whose delivery is not complete.

        Raises:
            PageTokenError: The page token is invalid.
        """
        statement = sa.select(role_outbox)
        if user_id:
            statement = statement.where(role_outbox.c.user_id == uuid.UUID(user_id))
        if pending:
            statement = statement.where(role_outbox.c.done_time.is_(None))
        return await fetch_page(
            self._database,
            statement,
            (role_outbox.c.change_id,),
            _to_role_change,
            page,
            query=f"changes\n{user_id}\n{pending}",
            descending=True,
            timeout=timeout,
        )

    async def update_roles(
        self,
        user_id: str,
        identity: Identity,
        grant: Sequence[str],
        revoke: Sequence[str],
        caller: Caller,
        timeout: float | None = None,
    ) -> list[pb.RoleBinding]:
        """Grant and revoke roles of a user in one transaction, with audit events and outbox entries.

        Args:
            user_id: UUID of the user.
            identity: Identity of the user, as far as it is known.
            grant: Roles to grant; roles that the user has are left alone.
            revoke: Roles to revoke; roles that the user does not have are left alone.
            caller: See the class.
            timeout: See the class.

        Returns:
            All role bindings of the user after the update.
        """
        key = uuid.UUID(user_id)
        table = role_bindings
        now = datetime.fromtimestamp(self._clock(), UTC)
        async with self._database.write(timeout) as connection:
            # One update of a user at a time, so that bindings and outbox are written in the same order.
            lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(str(key), 0))
            await connection.execute(sa.select(lock))
            changes: list[tuple[str, bool]] = []
            if grant:
                rows = [
                    {
                        "user_id": key,
                        "role": role,
                        "create_time": now,
                        "granted_by": caller.subject,
                        "granted_by_issuer": caller.issuer,
                    }
                    for role in sorted(grant)
                ]
                inserted = await connection.execute(
                    insert(table).values(rows).on_conflict_do_nothing().returning(table.c.role)
                )
                changes += [(role, True) for role in inserted.scalars()]
            if revoke:
                deleted = await connection.execute(
                    table.delete()
                    .where(table.c.user_id == key, table.c.role.in_(sorted(revoke)))
                    .returning(table.c.role)
                )
                changes += [(role, False) for role in deleted.scalars()]
            events = [
                ("role.granted" if granted else "role.revoked", f"users/{key}/roles/{role}")
                for role, granted in changes
            ]
            await append_audit(connection, audit_events, caller, events, self._clock)
            await enqueue(connection, key, identity, changes, self._clock)
            bindings = sa.select(table).where(table.c.user_id == key).order_by(table.c.role)
            return [_to_role_binding(row) for row in await connection.execute(bindings)]


def _to_role_binding(row: Any) -> pb.RoleBinding:
    binding = pb.RoleBinding(
        user_id=str(row.user_id),
        role=row.role,
        granted_by=row.granted_by,
        granted_by_issuer=row.granted_by_issuer,
    )
    binding.create_time.FromDatetime(row.create_time)
    return binding


def _to_role_change(row: Any) -> pb.RoleChange:
    change = pb.RoleChange(
        user_id=str(row.user_id), role=row.role, granted=row.granted, attempt_count=row.attempts
    )
    change.change_time.FromDatetime(row.change_time)
    if row.done_time is None:
        change.next_attempt_time.FromDatetime(row.due_time)
    else:
        change.complete_time.FromDatetime(row.done_time)
    return change


def _to_audit_event(row: Any) -> pb.AuditEvent:
    event = pb.AuditEvent(
        audit_event_id=str(row.audit_event_id),
        method=row.method,
        subject=row.subject,
        client_id=row.client_id,
        resource=row.resource,
        action=row.action,
        trace_id=row.trace_id,
        issuer=row.issuer,
        actor_issuer=row.actor_issuer,
        actor_subject=row.actor_subject,
    )
    event.event_time.FromDatetime(row.event_time)
    return event
