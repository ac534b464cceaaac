"""Create the tables of role bindings and audit events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001_admin"
down_revision = None

UUID = postgresql.UUID(as_uuid=True)
TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    role = op.get_context().opts["login_role"]
    op.create_table(
        "role_bindings",
        sa.Column("user_id", UUID, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("granted_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "role", name="pk_role_bindings"),
        schema="admin",
    )
    op.create_index("ix_role_bindings_role", "role_bindings", ["role", "user_id"], schema="admin")
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
        schema="admin",
    )
    for column in ("resource", "subject"):
        op.create_index(
            f"ix_audit_events_{column}", "audit_events", [column, "audit_event_id"], schema="admin"
        )
    op.execute(f"GRANT SELECT, INSERT, DELETE ON admin.role_bindings TO {role}")
    # Audit events can be added and read, but not changed.
    op.execute(f"GRANT SELECT, INSERT ON admin.audit_events TO {role}")


def downgrade() -> None:
    op.drop_table("audit_events", schema="admin")
    op.drop_table("role_bindings", schema="admin")
