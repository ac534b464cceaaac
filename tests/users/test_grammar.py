"""What callers write in a filter, a mask, a page token and a resume token: understood, or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import field_mask_pb2
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.domain import InvalidArgument
from gatehouse.storage import page_size, read_page_token, write_page_token
from gatehouse.users.filter import parse_filter
from gatehouse.users.service import paths_of, read_resume_token, write_resume_token
from gatehouse.users.v1 import users_pb2 as pb

MUTABLE = {"email", "display_name", "state"}
PIECES = st.sampled_from(
    ["email", "state", "create_time", "=", "!=", ":", "<", '"', "\\", "*", " AND ", " OR ", "ACTIVE", "("]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join))


def attempt(action: Callable[[], list[Any]]) -> list[Any] | str:
    """Returns what an action gives, or the field that it refuses."""
    try:
        return action()
    except InvalidArgument as error:
        return error.field


@given(TEXTS)
def test_any_filter_is_understood_or_refused_by_its_field(text: str) -> None:
    found = attempt(lambda: parse_filter(text))
    assert found == "filter" or (not found) == (not text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "AND state = ACTIVE",
        "state = ACTIVE AND",
        "state = ACTIVE OR state = SUSPENDED",
        "state = active",
        "state < ACTIVE",
        'state = "ACTIVE',
        "(state = ACTIVE)",
        'create_time : "2020-01-01T00:00:00Z"',
        'create_time > "2020-01-01T00:00:00"',
        "email",
        "= x",
    ],
)
def test_a_filter_beyond_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_filter(text)


@pytest.mark.parametrize("text", ["", "   ", 'email="a"', '  email = "a"  AND  state!=ACTIVE  ', "email:a"])
def test_spaces_make_no_difference(text: str) -> None:
    assert len(parse_filter(text)) == (2 if "AND" in text else 1 if text.strip() else 0)


KEYS = st.tuples(st.integers(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))


@given(KEYS, st.text(), st.text())
def test_a_page_token_is_read_as_it_was_written_and_for_its_query_only(
    key: tuple[int, str], query: str, other: str
) -> None:
    token = write_page_token(query, key)
    assert read_page_token(query, token, (int, str)) == key
    if query != other:
        with pytest.raises(InvalidArgument):
            read_page_token(other, token, (int, str))
    with pytest.raises(InvalidArgument):
        read_page_token(query, token, (str, str))


@given(st.text(max_size=80))
def test_any_other_text_is_no_token(text: str) -> None:
    if text:
        for read in (lambda t: read_page_token("q", t, (int, str)), read_resume_token):
            with contextlib.suppress(InvalidArgument):
                read(text)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_resume_token_is_read_as_it_was_written(xid: int, position: int) -> None:
    assert read_resume_token(write_resume_token((xid, position))) == (xid, position)


def test_a_page_has_a_size_in_bounds() -> None:
    assert [page_size(n) for n in (0, 1, 1000, 1001, 2**31 - 1)] == [50, 1, 1000, 1000, 1000]


@given(
    st.lists(st.one_of(st.sampled_from([*MUTABLE, "*", "user_id", "user.email"]), st.text(max_size=5))),
    st.sets(st.sampled_from(sorted(MUTABLE))),
)
def test_any_mask_names_fields_that_can_be_written_and_are_given(paths: list[str], given_: set[str]) -> None:
    values = {"email": "a@example.test", "display_name": "A", "state": pb.USER_STATE_ACTIVE}
    user = pb.User(**{name: values[name] for name in given_})
    request = pb.UpdateUserRequest(user=user, update_mask=field_mask_pb2.FieldMask(paths=paths))
    wanted = MUTABLE if set(paths) == {"*"} else set(paths) or given_
    found = attempt(lambda: paths_of(request))
    if isinstance(found, str):
        assert not wanted <= given_
        assert found in {"update_mask", *(f"user.{name}" for name in MUTABLE)}
    else:
        assert sorted(found) == sorted(wanted)
