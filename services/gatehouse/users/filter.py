"""The filter of ListUsers: the subset of AIP-160 that the proto documents, as SQL conditions."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from operator import eq, ge, gt, le, lt, ne
from typing import Any

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
    "=": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument("filter", "FILTER_INVALID", f"filter: {message}")


def parse_filter(text: str) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of a filter, all of which must hold; an empty filter has none.

    Raises:
        InvalidArgument: The filter has a syntax error or names an unknown field.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    position = 0
    while position < len(text.rstrip()):
        if conditions:
            joined = _AND.match(text, position)
            if joined is None:
                raise _invalid("expected AND between terms")
            position = joined.end()
        term = _TERM.match(text, position)
        if term is None:
            raise _invalid("expected `field operator value`")
        position = term.end()
        value = term["plain"] if term["quoted"] is None else re.sub(r"\\(.)", r"\1", term["quoted"])
        conditions.append(_condition(term["field"], term["operator"], value))
        if len(conditions) > MAX_TERMS:
            raise _invalid(f"more than {MAX_TERMS} terms")
    return conditions


def _condition(field: str, operator: str, value: str) -> sa.ColumnElement[bool]:
    if field == "email":
        # Emails are compared without regard to case; lower(email) has an index.
        return _text(sa.func.lower(users.c.email), operator, value.lower())
    if field == "display_name":
        return _text(users.c.display_name, operator, value)
    if field == "state":
        if operator not in {"=", "!="} or value not in _STATES:
            raise _invalid("compare state by = or != with ACTIVE or SUSPENDED")
        return _COMPARE[operator](users.c.state, _STATES[value])
    if field in {"create_time", "update_time"}:
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            time = None
        if operator == ":" or time is None or time.tzinfo is None:
            raise _invalid(f'compare {field} with a time such as "2026-01-31T12:00:00Z"')
        return _COMPARE[operator](users.c[field], time)
    raise _invalid("unknown field; use email, display_name, state, create_time or update_time")


def _text(operand: sa.ColumnElement[str], operator: str, value: str) -> sa.ColumnElement[bool]:
    if operator == ":":
        return operand.contains(value, autoescape=True)
    if value.endswith("*"):
        if operator not in {"=", "!="}:
            raise _invalid("compare a value that ends in * by = or !=")
        prefix = operand.startswith(value[:-1], autoescape=True)
        return prefix if operator == "=" else sa.not_(prefix)
    return _COMPARE[operator](operand, value)
