"""Add the issuer of the caller to request ids and audit events, and the actor to audit events.

Rows that exist have "", because the issuer of their caller was not recorded. A request id from before this
migration is therefore not recognized after it: a retry of such a CreateUser fails with ALREADY_EXISTS.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_issuer_of_caller"
down_revision = "0001_users"

# See docs/upgrades.md.
_REASON = (
    "one day of requests is quick to index; the release before writes no issuer, so its key stays unique"
)
allowed = dict.fromkeys(
    ("adding-serial-primary-key-field", "ban-drop-constraint", "constraint-missing-not-valid"), _REASON
)

COLUMNS = (
    ("audit_events", "issuer"),
    ("audit_events", "actor_issuer"),
    ("audit_events", "actor_subject"),
    ("requests", "issuer"),
)


def upgrade() -> None:
    for table, column in COLUMNS:
        op.add_column(table, sa.Column(column, sa.Text, nullable=False, server_default=""), schema="users")
    op.drop_constraint("pk_requests", "requests", schema="users")
    op.create_primary_key("pk_requests", "requests", ["issuer", "subject", "request_id"], schema="users")


def downgrade() -> None:
    op.drop_constraint("pk_requests", "requests", schema="users")
    # Request ids of several issuers can collide; forgetting them only makes a retry fail.
    op.execute("DELETE FROM users.requests")
    op.create_primary_key("pk_requests", "requests", ["subject", "request_id"], schema="users")
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column, schema="users")
