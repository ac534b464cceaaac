"""Add the issuer of the caller, and the actor, to audit events and role bindings.

Rows that exist have "", because the issuer of their caller was not recorded.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003_issuer_of_caller"
down_revision = "0002_role_outbox"

COLUMNS = (
    ("audit_events", "issuer"),
    ("audit_events", "actor_issuer"),
    ("audit_events", "actor_subject"),
    ("role_bindings", "granted_by_issuer"),
)


def upgrade() -> None:
    for table, column in COLUMNS:
        op.add_column(table, sa.Column(column, sa.Text, nullable=False, server_default=""), schema="admin")


def downgrade() -> None:
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column, schema="admin")
