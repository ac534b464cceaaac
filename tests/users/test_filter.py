"""The filter of ListUsers."""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.domain import InvalidArgument
from gatehouse.users.filter import MAX_TERMS, parse_filter
from gatehouse.users.v1 import users_pb2 as pb
from tests.support.services import Services

TOKENS = st.sampled_from(
    ["email", "state", "create_time", "=", "!=", ":", "<", '"', "\\", "*", " AND ", " OR ", "ACTIVE", "("]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=12).map("".join))


@given(TEXTS)
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert bool(parse_filter(text)) == bool(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "AND state = ACTIVE",
        "state = ACTIVE AND",
        "state = ACTIVE state = ACTIVE",
        "state = ACTIVE OR state = SUSPENDED",
        "state = active",
        "state = WRONG",
        "state < ACTIVE",
        'state = "ACTIVE',
        "(state = ACTIVE)",
        'password = "x"',
        'create_time = "yesterday"',
        'create_time : "2020-01-01T00:00:00Z"',
        'create_time > "2020-01-01T00:00:00"',
        'email < "a*"',
        "email",
        "= x",
        " AND ".join(["state = ACTIVE"] * (MAX_TERMS + 1)),
    ],
)
def test_invalid_filter_is_rejected(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^filter: ") as caught:
        parse_filter(text)
    assert caught.value.field == "filter"


@pytest.mark.parametrize(
    ("text", "terms"),
    [("", 0), ("   ", 0), ('email="a"', 1), ('  email = "a"  AND  state!=ACTIVE  ', 2), ("email:a", 1)],
)
def test_spaces_are_ignored(text: str, terms: int) -> None:
    assert len(parse_filter(text)) == terms


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("state = ACTIVE", 2),
        ("state != ACTIVE", 1),
        ('display_name : "TAG b"', 1),
        ('display_name = "TAG*" AND state = SUSPENDED', 1),
        ('create_time > "2020-01-01T00:00:00Z"', 3),
        ('create_time < "2020-01-01T00:00:00Z"', 0),
        ('display_name != "TAG*"', 0),
        ('display_name >= "TAG b"', 2),
        ('email = "TAG-A@EXAMPLE.TEST"', 1),
    ],
)
async def test_filter_selects_users(services: Services, text: str, count: int) -> None:
    tag = uuid.uuid4().hex
    for letter, state in (
        ("a", pb.USER_STATE_ACTIVE),
        ("b", pb.USER_STATE_ACTIVE),
        ("c", pb.USER_STATE_SUSPENDED),
    ):
        await services.create_user(
            email=f"{tag}-{letter}@example.test", display_name=f"{tag} {letter}", state=state
        )
    query = f'display_name : "{tag}" AND ' + text.replace("TAG", tag)
    response = await services.users.ListUsers(pb.ListUsersRequest(filter=query))
    assert len(response.users) == count
