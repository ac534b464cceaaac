"""Create the outbox of role changes and add the present bindings, which were never delivered."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002_role_outbox"
down_revision = "0001_admin"

UUID = postgresql.UUID(as_uuid=True)
TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    role = op.get_context().opts["login_role"]
    op.create_table(
        "role_outbox",
        sa.Column("user_id", UUID, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("change_id", UUID, nullable=False),
        sa.Column("granted", sa.Boolean, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("traceparent", sa.Text, nullable=False),
        sa.Column("change_time", TIME, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_time", TIME, nullable=False),
        sa.Column("lease_id", UUID),
        sa.Column("lease_end", TIME),
        sa.Column("done_time", TIME),
        sa.PrimaryKeyConstraint("user_id", "role", name="pk_role_outbox"),
        schema="admin",
    )
    for column, condition in (("due", "done_time IS NULL"), ("done", "done_time IS NOT NULL")):
        op.create_index(
            f"ix_role_outbox_{column}",
            "role_outbox",
            [f"{column}_time"],
            schema="admin",
            postgresql_where=sa.text(condition),
        )
    op.execute("""
        INSERT INTO admin.role_outbox
          (user_id, role, change_id, granted, issuer, subject, traceparent, change_time, attempts, due_time)
        SELECT user_id, role, gen_random_uuid(), true, '', '', '', create_time, 0, create_time
        FROM admin.role_bindings
    """)
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON admin.role_outbox TO {role}")


def downgrade() -> None:
    op.drop_table("role_outbox", schema="admin")
