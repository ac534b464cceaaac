"""Create the table of notices and add the first one."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001_public"
down_revision = None

TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    role = op.get_context().opts["login_role"]
    op.create_table(
        "notices",
        sa.Column("notice_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("start_time", TIME, nullable=False),
        sa.Column("end_time", TIME),
        sa.PrimaryKeyConstraint("notice_id", name="pk_notices"),
        schema="public_info",
    )
    op.create_index("ix_notices_start_time", "notices", ["start_time"], schema="public_info")
    op.execute("""
        INSERT INTO public_info.notices (notice_id, text, start_time)
        VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'Welcome to Gatehouse.', '2026-01-01T00:00:00Z')
    """)
    op.execute(f"GRANT SELECT ON public_info.notices TO {role}")


def downgrade() -> None:
    op.drop_table("notices", schema="public_info")
