"""The audit trail: who did what to which resource. Rows are appended in the transaction of the change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehouse.storage.ids import new_id


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of the RPC that makes a change.

    Attributes:
        issuer: Issuer of the token of the caller; only with it does `subject` identify the caller.
        subject: `sub` of the caller.
        client_id: OAuth2 client of the caller.
        method: `package.Service/Method`.
        trace_id: 32 hexadecimal digits, or "".
        actor_issuer: Issuer of the party that acts for the subject, or "".
        actor_subject: `sub` of that party, or "".
    """

    issuer: str
    subject: str
    client_id: str
    method: str
    trace_id: str = ""
    actor_issuer: str = ""
    actor_subject: str = ""


def audit_table(metadata: sa.MetaData, schema: str) -> sa.Table:
    """Return the audit table of a schema."""
    return sa.Table(
        "audit_events",
        metadata,
        sa.Column("audit_event_id", postgresql.UUID(as_uuid=True), primary_key=True),
        sa.Column("event_time", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        # "" in rows that are older than these columns, and where a token names no actor.
        *(
            sa.Column(name, sa.Text, nullable=False, server_default="")
            for name in ("issuer", "actor_issuer", "actor_subject")
        ),
        schema=schema,
    )


async def append_audit(
    connection: AsyncConnection,
    table: sa.Table,
    caller: Caller,
    events: Sequence[tuple[str, str]],
    clock: Callable[[], float],
) -> None:
    """Append events in the transaction of `connection`.

    Args:
        connection: A connection in a transaction.
        table: Audit table.
        caller: The caller.
        events: Action and resource of each event, such as `("user.created", "users/0190...")`.
        clock: Seconds since the epoch.
    """
    if events:
        await connection.execute(
            table.insert(),
            [
                {
                    "audit_event_id": new_id(clock),
                    "method": caller.method,
                    "issuer": caller.issuer,
                    "subject": caller.subject,
                    "client_id": caller.client_id,
                    "actor_issuer": caller.actor_issuer,
                    "actor_subject": caller.actor_subject,
                    "resource": resource,
                    "action": action,
                    "trace_id": caller.trace_id,
                }
                for action, resource in events
            ],
        )
