"""Tables of UserService, in the schema `users`."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from gatehouse.storage import audit_table

SCHEMA = "users"
CHANNEL = "gatehouse_user_changes"

metadata = sa.MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    },
)
_UUID = postgresql.UUID(as_uuid=True)
_TIME = sa.TIMESTAMP(timezone=True)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", _UUID, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("issuer", sa.Text),
    sa.Column("subject", sa.Text),
    sa.Column("create_time", _TIME, nullable=False),
    sa.Column("update_time", _TIME, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)
sa.Index("uq_users_email_lower", sa.func.lower(users.c.email), unique=True)
sa.Index("uq_users_issuer_subject", users.c.issuer, users.c.subject, unique=True)
sa.Index("ix_users_create_time", users.c.create_time, users.c.user_id)
sa.Index("ix_users_email", users.c.email, users.c.user_id)
sa.Index("ix_users_display_name", users.c.display_name, users.c.user_id)

user_changes = sa.Table(
    "user_changes",
    metadata,
    # See change_feed.py for the order of the rows.
    sa.Column("xid", sa.BigInteger, nullable=False, primary_key=True),
    sa.Column("position", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
    sa.Column("change_time", _TIME, nullable=False),
)
sa.Index("ix_user_changes_change_time", user_changes.c.change_time)

# One row: the last change that was pruned.
change_feed = sa.Table(
    "change_feed",
    metadata,
    sa.Column("singleton", sa.Boolean, sa.CheckConstraint("singleton", name="singleton"), primary_key=True),
    sa.Column("pruned_xid", sa.BigInteger, nullable=False),
    sa.Column("pruned_position", sa.BigInteger, nullable=False),
)

# Responses to requests with an id; see idempotency.py.
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True, server_default=""),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("request_id", _UUID, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Column("create_time", _TIME, nullable=False),
)
sa.Index("ix_requests_create_time", requests.c.create_time)

audit_events = audit_table(metadata, SCHEMA)
