"""ListUsers: pages, order, and the queries behind them."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.storage import Database, PageRequest
from gatehouse.users.repository import UserRepository
from gatehouse.users.v1 import users_pb2 as pb
from tests.support.services import Services, invalid_fields, run_sql

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ORDERS = [f"{name}{way}" for name in ("create_time", "email", "display_name") for way in ("", " desc")]
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Row:
    """A user. Names and times repeat, so that there are ties."""

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


@dataclass
class Directory:
    """The repository, and a connection that fills its table."""

    users: UserRepository
    owner: psycopg.AsyncConnection[Any]

    async def clear(self) -> None:
        await self.owner.execute("DELETE FROM users.users")

    async def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            time = EPOCH + timedelta(seconds=row.second)
            await self.owner.execute(
                "INSERT INTO users.users VALUES (%s, %s, %s, 1, NULL, NULL, %s, %s, 1)",
                [row.user_id, row.email, row.display_name, time, time],
            )


@pytest.fixture
async def directory(database_urls: dict[str, str]) -> AsyncIterator[Directory]:
    database = Database(database_urls["users"], pool_size=2)
    async with await psycopg.AsyncConnection.connect(database_urls["owner"], autocommit=True) as owner:
        yield Directory(UserRepository(database, lambda: 0.0), owner)
    await database.aclose()


def in_order(rows: Sequence[Row], order: str) -> list[str]:
    return [
        str(row.user_id)
        for row in sorted(rows, key=lambda row: row.key(order), reverse=order.endswith(" desc"))
    ]


@PROPERTY
@given(rows=ROWS, order=st.sampled_from(ORDERS), size=st.integers(1, 5))
async def test_pages_have_every_row_once_and_in_order(
    directory: Directory, rows: list[Row], order: str, size: int
) -> None:
    await directory.clear()
    await directory.add(rows)
    found: list[str] = []
    token, pages = "", 0
    while token or not pages:
        page = await directory.users.list("", order, PageRequest(token, size))
        assert len(page.rows) <= size
        found += [user.user_id for user in page.rows]
        token, pages = page.next_page_token, pages + 1
    assert found == in_order(rows, order)
    assert pages == max(1, -(-len(rows) // size))


@PROPERTY
@given(rows=ROWS, late=ROWS, order=st.sampled_from(ORDERS), size=st.integers(1, 3))
async def test_rows_added_between_pages_do_not_move_other_rows(
    directory: Directory, rows: list[Row], late: list[Row], order: str, size: int
) -> None:
    known = {row.user_id for row in rows}
    late = [row for row in late if row.user_id not in known]
    waiting = iter(late)
    await directory.clear()
    await directory.add(rows)
    found: list[str] = []
    token, first = "", True
    while token or first:
        page = await directory.users.list("", order, PageRequest(token, size))
        found += [user.user_id for user in page.rows]
        token, first = page.next_page_token, False
        await directory.add([row for row in [next(waiting, None)] if row is not None])
    assert len(found) == len(set(found))
    assert [user_id for user_id in found if uuid.UUID(user_id) in known] == in_order(rows, order)
    assert found == [i for i in in_order([*rows, *late], order) if i in set(found)]


@PROPERTY
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
async def test_quoted_value_in_a_filter_finds_any_name(directory: Directory, text: str) -> None:
    row, other = Row(text, 0, uuid.uuid4()), Row("other", 0, uuid.uuid4())
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    await directory.clear()
    await directory.add([row, other])
    for operator in ("=", ":"):
        page = await directory.users.list(f'display_name {operator} "{quoted}"', "", PageRequest())
        assert str(row.user_id) in {user.user_id for user in page.rows}, operator


def plan_nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in plan_nodes(child))]


async def test_late_page_is_read_from_an_index_without_sorting(
    directory: Directory, database_urls: dict[str, str]
) -> None:
    await directory.clear()
    await directory.owner.execute(
        "INSERT INTO users.users SELECT gen_random_uuid(), md5(n::text) || '@example.test',"
        " 'User ' || n % 100, 1, NULL, NULL, now() - n % 1000 * interval '1 second', now(), 1"
        " FROM generate_series(1, 20000) AS n"
    )
    await directory.owner.execute("ANALYZE users.users")
    database = Database(database_urls["users"], pool_size=1)
    statements: list[tuple[str, Any]] = []

    def keep(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(database._engine.sync_engine, "before_cursor_execute", keep)
    users = UserRepository(database, lambda: 0.0)
    for order in ORDERS:
        token = ""
        for _ in range(4):
            token = (await users.list("", order, PageRequest(token, 1000))).next_page_token
        await users.list("", order, PageRequest(token))
        statement, parameters = statements[-1]
        ((plan,),) = await run_sql(database_urls["users"], f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        nodes = plan_nodes(plan[0]["Plan"])
        assert [node["Node Type"] for node in nodes] == ["Limit", "Index Scan"], order
        scan = nodes[-1]
        assert scan["Index Name"] == f"ix_users_{order.split(maxsplit=1)[0]}"
        assert "ROW(" in scan["Index Cond"]
        assert "Filter" not in scan
    await database.aclose()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filter", "nonsense"),
        ("filter", 'display_name = "\0"'),
        ("order_by", "password"),
        ("order_by", "email sideways"),
        ("page_token", "nonsense"),
        ("page_token", "WzFd"),
        ("page_token", "bnVsbA"),
    ],
)
async def test_invalid_query_is_rejected_with_its_field(services: Services, field: str, value: str) -> None:
    request = pb.ListUsersRequest(**{field: value})
    assert await invalid_fields(services.users.ListUsers(request)) == [field]


async def test_page_token_is_rejected_for_another_query(services: Services) -> None:
    for _ in range(2):
        await services.create_user()
    request = pb.ListUsersRequest(page_size=1)
    request.page_token = (await services.users.ListUsers(request)).next_page_token
    assert len((await services.users.ListUsers(request)).users) == 1
    request.order_by = "email"
    assert await invalid_fields(services.users.ListUsers(request)) == ["page_token"]


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
async def test_forged_page_token_with_text_that_cannot_be_stored_is_rejected(
    services: Services, text: str
) -> None:
    """Tokens are not signed: they only name a row, and a caller who may list users may name any row."""
    for _ in range(2):
        await services.create_user()
    request = pb.ListUsersRequest(order_by="email", page_size=1)
    token = (await services.users.ListUsers(request)).next_page_token
    query, _, user_id = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))

    def list_after(email: str) -> Any:
        raw = json.dumps([query, email, user_id]).encode()
        request.page_token = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        return services.users.ListUsers(request)

    assert await list_after("a").code() is grpc.StatusCode.OK
    assert await invalid_fields(list_after(text)) == ["page_token"]
