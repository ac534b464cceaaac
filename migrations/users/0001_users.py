"""Create the tables of users, their change feed, idempotent requests and audit events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001_users"
down_revision = None

UUID = postgresql.UUID(as_uuid=True)
TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    role = op.get_context().opts["login_role"]
    op.create_table(
        "users",
        sa.Column("user_id", UUID, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("issuer", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("update_time", TIME, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_users"),
        schema="users",
    )
    op.create_index("uq_users_email_lower", "users", [sa.text("lower(email)")], unique=True, schema="users")
    op.create_index("uq_users_issuer_subject", "users", ["issuer", "subject"], unique=True, schema="users")
    for column in ("create_time", "email", "display_name"):
        op.create_index(f"ix_users_{column}", "users", [column, "user_id"], schema="users")
    op.create_table(
        "user_changes",
        sa.Column("xid", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("change_time", TIME, nullable=False),
        sa.PrimaryKeyConstraint("xid", "position", name="pk_user_changes"),
        schema="users",
    )
    op.create_index("ix_user_changes_change_time", "user_changes", ["change_time"], schema="users")
    op.create_table(
        "change_feed",
        sa.Column("singleton", sa.Boolean, nullable=False),
        sa.Column("pruned_xid", sa.BigInteger, nullable=False),
        sa.Column("pruned_position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_change_feed"),
        sa.CheckConstraint("singleton", name="ck_change_feed_singleton"),
        schema="users",
    )
    op.execute("INSERT INTO users.change_feed VALUES (true, 0, 0)")
    op.create_table(
        "requests",
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("request_id", UUID, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.PrimaryKeyConstraint("subject", "request_id", name="pk_requests"),
        schema="users",
    )
    op.create_index("ix_requests_create_time", "requests", ["create_time"], schema="users")
    op.create_table(
        "audit_events",
        sa.Column("audit_event_id", UUID, nullable=False),
        sa.Column("event_time", TIME, nullable=False, server_default=sa.text("now()")),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("audit_event_id", name="pk_audit_events"),
        schema="users",
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON users.users TO {role}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON users.user_changes, users.requests TO {role}")
    op.execute(f"GRANT SELECT, UPDATE ON users.change_feed TO {role}")
    # Audit events can be added and read, but not changed.
    op.execute(f"GRANT SELECT, INSERT ON users.audit_events TO {role}")


def downgrade() -> None:
    op.drop_table("audit_events", schema="users")
    op.drop_table("requests", schema="users")
    op.drop_table("change_feed", schema="users")
    op.drop_table("user_changes", schema="users")
    op.drop_table("users", schema="users")
