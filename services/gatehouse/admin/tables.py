"""Tables of AdminService, all in schema `admin`."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from gatehouse.storage import audit_table

SCHEMA = "admin"
metadata = sa.MetaData(schema=SCHEMA, naming_convention={"pk": "pk_%(table_name)s"})

role_bindings = sa.Table(
    "role_bindings",
    metadata,
    sa.Column("user_id", postgresql.UUID(as_uuid=True), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("create_time", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("granted_by", sa.Text, nullable=False),
)
sa.Index("ix_role_bindings_role", role_bindings.c.role, role_bindings.c.user_id)

audit_events = audit_table(metadata, SCHEMA)
sa.Index("ix_audit_events_resource", audit_events.c.resource, audit_events.c.audit_event_id)
sa.Index("ix_audit_events_subject", audit_events.c.subject, audit_events.c.audit_event_id)
