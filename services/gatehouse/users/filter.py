"""The filter of ListUsers: the part of AIP-160 that the proto comment names, as a SQL condition."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa

from gatehouse.domain import InvalidArgument
from gatehouse.users.tables import users

_TERM = re.compile(
    r"""\s*(?P<field>[a-z_]+)\s*(?P<operator>!=|<=|>=|=|<|>|:)\s*
        (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s"()]+))\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"AND\s+")
MAX_TERMS = 10
_STATES = {"ACTIVE": 1, "SUSPENDED": 2, "USER_STATE_ACTIVE": 1, "USER_STATE_SUSPENDED": 2}
_COMPARE: dict[str, Callable[[Any, Any], sa.ColumnElement[bool]]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _wrong(message: str) -> InvalidArgument:
    return InvalidArgument("filter", "FILTER_INVALID", message)


def parse_filter(text: str) -> list[sa.ColumnElement[bool]]:
    """Parses a filter into conditions, all of which must hold; none for "".

    Raises:
        InvalidArgument: It is not of the grammar, or names an unknown field.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    position = 0
    while position < len(text.rstrip()):
        if conditions:
            joined = _AND.match(text, position)
            if joined is None:
                raise _wrong("terms are joined by AND")
            position = joined.end()
        term = _TERM.match(text, position)
        if term is None:
            raise _wrong("a term is `field operator value`")
        position = term.end()
        value = term["plain"] if term["quoted"] is None else re.sub(r"\\(.)", r"\1", term["quoted"])
        conditions.append(_condition(term["field"], term["operator"], value))
        if len(conditions) > MAX_TERMS:
            raise _wrong(f"at most {MAX_TERMS} terms")
    return conditions


def _condition(field: str, operator: str, value: str) -> sa.ColumnElement[bool]:
    if field in {"email", "display_name"}:
        return _text(field, operator, value)
    if field == "state":
        if operator not in {"=", "!="} or value not in _STATES:
            raise _wrong("state is compared by = or != with ACTIVE or SUSPENDED")
        return _COMPARE[operator](users.c.state, _STATES[value])
    if field in {"create_time", "update_time"}:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if operator == ":" or moment is None or moment.tzinfo is None:
            raise _wrong("a time is compared with an RFC 3339 value in quotes")
        return _COMPARE[operator](users.c[field], moment)
    raise _wrong("fields are email, display_name, state, create_time, update_time")


def _text(field: str, operator: str, value: str) -> sa.ColumnElement[bool]:
    column = users.c[field]
    # An address has no case here, and is looked up by the index over its lower case.
    side: Any = sa.func.lower(column) if field == "email" else column
    value = value.lower() if field == "email" else value
    if operator == ":":
        return cast("sa.ColumnElement[bool]", side.contains(value, autoescape=True))
    if value.endswith("*"):
        prefix = cast("sa.ColumnElement[bool]", side.startswith(value[:-1], autoescape=True))
        if operator == "=":
            return prefix
        if operator == "!=":
            return sa.not_(prefix)
        raise _wrong("a value that ends in * is compared by = or !=")
    return _COMPARE[operator](side, value)
