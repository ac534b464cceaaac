"""SQL of PublicService."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from gatehouse.public.tables import notices
from gatehouse.public.v1 import public_pb2 as pb
from gatehouse.storage import Database

MAX_NOTICES = 20


class NoticeRepository:
    """Read notices.

    Args:
        database: Connection pool of the login role of PublicService.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def list_active(self, timeout: float | None = None) -> list[pb.Notice]:
        """Return the newest active notices, newest first; `timeout` is in seconds."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        statement = (
            sa.select(notices)
            .where(
                notices.c.start_time <= now, sa.or_(notices.c.end_time.is_(None), notices.c.end_time > now)
            )
            .order_by(notices.c.start_time.desc(), notices.c.notice_id.desc())
            .limit(MAX_NOTICES)
        )
        async with self._database.read(timeout) as connection:
            return [_to_notice(row) for row in await connection.execute(statement)]


def _to_notice(row: Any) -> pb.Notice:
    notice = pb.Notice(notice_id=str(row.notice_id), text=row.text)
    notice.start_time.FromDatetime(row.start_time)
    return notice
