"""Tables of PublicService, in the schema `public_info`; PostgreSQL uses `public` itself."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

SCHEMA = "public_info"
metadata = sa.MetaData(schema=SCHEMA, naming_convention={"pk": "pk_%(table_name)s"})

notices = sa.Table(
    "notices",
    metadata,
    sa.Column("notice_id", postgresql.UUID(as_uuid=True), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("start_time", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("end_time", sa.TIMESTAMP(timezone=True)),
)
sa.Index("ix_notices_start_time", notices.c.start_time)
