"""ListUsers page by page: every row once, in order, by an index, whatever the data and whoever writes."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.storage import Database
from gatehouse.users.repository import UserRepository

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ORDERS = [f"{name}{way}" for name in ("create_time", "email", "display_name") for way in ("", " desc")]
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Row:
    """A user as a test makes it: few names and moments, so that there are ties."""

    display_name: str
    second: int
    user_id: uuid.UUID

    @property
    def email(self) -> str:
        return f"{self.user_id.hex}@example.test"

    def key(self, order: str) -> tuple[Any, uuid.UUID]:
        values = {
            "create_time": self.second,
            "email": self.email,
            "display_name": self.display_name.encode(),
        }
        return values[order.split(maxsplit=1)[0]], self.user_id


ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(["a", "A", "b", "ä", "z z", "日本", "😀", "_%\\"]),
        st.integers(0, 3),
        st.uuids(version=4),
    ),
    max_size=12,
    unique_by=lambda row: row.user_id,
)


@asynccontextmanager
async def open_repository(urls: dict[str, str], rows: Sequence[Row]) -> AsyncIterator[UserRepository]:
    async with await psycopg.AsyncConnection.connect(urls["owner"], autocommit=True) as owner:
        await owner.execute("DELETE FROM users.users")
    await add(urls, rows)
    database = Database(urls["users"], pool_size=2)
    try:
        yield UserRepository(database, lambda: 0.0)
    finally:
        await database.aclose()


async def add(urls: dict[str, str], rows: Sequence[Row]) -> None:
    async with await psycopg.AsyncConnection.connect(urls["owner"], autocommit=True) as owner:
        for row in rows:
            moment = EPOCH + timedelta(seconds=row.second)
            await owner.execute(
                "INSERT INTO users.users VALUES (%s, %s, %s, 1, NULL, NULL, %s, %s, 1)",
                [row.user_id, row.email, row.display_name, moment, moment],
            )


def in_order(rows: Sequence[Row], order: str) -> list[str]:
    return [
        str(row.user_id)
        for row in sorted(rows, key=lambda row: row.key(order), reverse=order.endswith(" desc"))
    ]


@PROPERTY
@given(rows=ROWS, order=st.sampled_from(ORDERS), size=st.integers(1, 5))
async def test_pages_hold_every_row_once_and_in_order(
    database_urls: dict[str, str], rows: list[Row], order: str, size: int
) -> None:
    async with open_repository(database_urls, rows) as users:
        found: list[str] = []
        token, pages = "", 0
        while token or not pages:
            page = await users.list("", order, token, size)
            assert len(page.rows) <= size
            found += [user.user_id for user in page.rows]
            token, pages = page.next_page_token, pages + 1
    assert found == in_order(rows, order)
    assert pages == max(1, -(-len(rows) // size))


@PROPERTY
@given(rows=ROWS, late=ROWS, order=st.sampled_from(ORDERS), size=st.integers(1, 3))
async def test_rows_that_come_meanwhile_move_no_other_row(
    database_urls: dict[str, str], rows: list[Row], late: list[Row], order: str, size: int
) -> None:
    known = {row.user_id for row in rows}
    late = [row for row in late if row.user_id not in known]
    coming = iter(late)
    async with open_repository(database_urls, rows) as users:
        found: list[str] = []
        token, first = "", True
        while token or first:
            page = await users.list("", order, token, size)
            found += [user.user_id for user in page.rows]
            token, first = page.next_page_token, False
            await add(database_urls, [row for row in [next(coming, None)] if row is not None])
    assert len(found) == len(set(found))
    assert [user_id for user_id in found if uuid.UUID(user_id) in known] == in_order(rows, order)
    assert found == [i for i in in_order([*rows, *late], order) if i in set(found)]


@PROPERTY
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
async def test_a_quoted_value_finds_what_is_called_so(database_urls: dict[str, str], text: str) -> None:
    row, other = Row(text, 0, uuid.uuid4()), Row("other", 0, uuid.uuid4())
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    async with open_repository(database_urls, [row, other]) as users:
        for operator in ("=", ":"):
            page = await users.list(f'display_name {operator} "{quoted}"', "", "", 10)
            assert str(row.user_id) in {user.user_id for user in page.rows}, operator


@pytest.fixture(scope="module")
def many(database_urls: dict[str, str]) -> dict[str, str]:
    """A directory of 20,000 users."""
    with psycopg.connect(database_urls["owner"], autocommit=True) as owner:
        owner.execute("DELETE FROM users.users")
        owner.execute(
            "INSERT INTO users.users SELECT gen_random_uuid(), md5(n::text) || '@example.test',"
            " 'User ' || n % 100, 1, NULL, NULL, now() - n % 1000 * interval '1 second', now(), 1"
            " FROM generate_series(1, 20000) AS n"
        )
        owner.execute("ANALYZE users.users")
    return database_urls


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


@pytest.mark.parametrize("order", ORDERS)
async def test_a_page_deep_inside_is_read_by_an_index_and_not_sorted(
    many: dict[str, str], order: str
) -> None:
    database = Database(many["users"], pool_size=1)
    statements: list[tuple[str, Any]] = []

    def keep(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(database._engine.sync_engine, "before_cursor_execute", keep)
    users = UserRepository(database, lambda: 0.0)
    token = ""
    for _ in range(12):
        token = (await users.list("", order, token, 1000)).next_page_token
    await users.list("", order, token, 50)
    async with await psycopg.AsyncConnection.connect(many["users"]) as connection:
        statement, parameters = statements[-1]
        cursor = await connection.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        row = await cursor.fetchone()
    await database.aclose()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    found = nodes(plan[0]["Plan"])
    scan = found[-1]
    assert [node["Node Type"] for node in found] == ["Limit", "Index Scan"]
    assert scan["Index Name"] == f"ix_users_{order.split(maxsplit=1)[0]}"
    assert "ROW(" in scan["Index Cond"]
    assert "Filter" not in scan
