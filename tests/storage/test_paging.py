"""Page tokens."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.storage import PageRequest, PageTokenError, write_page_token
from gatehouse.storage.paging import read_page_token

KEY = (
    sa.Column("time", sa.TIMESTAMP(timezone=True)),
    sa.Column("name", sa.Text),
    sa.Column("id", sa.UUID(as_uuid=True)),
)
VALUES = st.tuples(
    st.datetimes(timezones=st.just(UTC)),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.uuids(),
)


@given(VALUES, st.text(), st.text())
def test_token_is_read_as_written_and_only_for_its_query(
    values: tuple[datetime, str, uuid.UUID], query: str, other: str
) -> None:
    token = write_page_token(query, values)
    assert read_page_token(query, token, KEY) == [*values]
    if query != other:
        with pytest.raises(PageTokenError):
            read_page_token(other, token, KEY)


@pytest.mark.parametrize(
    "values",
    [
        (),
        (1, "name", str(uuid.uuid4()), "more"),
        ("2026-01-01", "name", str(uuid.uuid4())),
        (True, "name", str(uuid.uuid4())),
        (10**20, "name", str(uuid.uuid4())),
        (1, 2, str(uuid.uuid4())),
        (1, "a\0", str(uuid.uuid4())),
        (1, "\ud800", str(uuid.uuid4())),
        (1, "name", "no uuid"),
        (1, "name", 5),
    ],
)
def test_forged_token_is_rejected_unless_its_values_fit_the_columns(values: tuple[object, ...]) -> None:
    assert read_page_token("q", write_page_token("q", (1, "name", str(uuid.uuid4()))), KEY)
    with pytest.raises(PageTokenError):
        read_page_token("q", write_page_token("q", values), KEY)


@given(st.text(min_size=1, max_size=80))
def test_any_other_text_is_rejected(token: str) -> None:
    with pytest.raises(PageTokenError):
        read_page_token("q", token, KEY)


def test_page_size_has_a_default_and_a_maximum() -> None:
    sizes = (0, 1, 1000, 1001, 2**31 - 1)
    assert [PageRequest(size=size).limit for size in sizes] == [50, 1, 1000, 1000, 1000]
