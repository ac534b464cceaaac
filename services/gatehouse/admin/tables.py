"""Tables of AdminService, in the schema `admin`."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from gatehouse.storage import audit_table

SCHEMA = "admin"
CHANNEL = "gatehouse_role_outbox"
metadata = sa.MetaData(schema=SCHEMA, naming_convention={"pk": "pk_%(table_name)s"})

role_bindings = sa.Table(
    "role_bindings",
    metadata,
    sa.Column("user_id", postgresql.UUID(as_uuid=True), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("create_time", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("granted_by", sa.Text, nullable=False),
    sa.Column("granted_by_issuer", sa.Text, nullable=False, server_default=""),
)
sa.Index("ix_role_bindings_role", role_bindings.c.role, role_bindings.c.user_id)

# One row for each user and role: a newer change replaces an older one, so the newest is delivered last.
role_outbox = sa.Table(
    "role_outbox",
    metadata,
    sa.Column("user_id", postgresql.UUID(as_uuid=True), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("change_id", postgresql.UUID(as_uuid=True), nullable=False),
    sa.Column("granted", sa.Boolean, nullable=False),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("traceparent", sa.Text, nullable=False),
    sa.Column("change_time", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_time", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("lease_id", postgresql.UUID(as_uuid=True)),
    sa.Column("lease_end", sa.TIMESTAMP(timezone=True)),
    sa.Column("done_time", sa.TIMESTAMP(timezone=True)),
)
_PENDING = role_outbox.c.done_time.is_(None)
sa.Index("ix_role_outbox_due", role_outbox.c.due_time, postgresql_where=_PENDING)
sa.Index("ix_role_outbox_done", role_outbox.c.done_time, postgresql_where=~_PENDING)

audit_events = audit_table(metadata, SCHEMA)
sa.Index("ix_audit_events_resource", audit_events.c.resource, audit_events.c.audit_event_id)
sa.Index("ix_audit_events_subject", audit_events.c.subject, audit_events.c.audit_event_id)
