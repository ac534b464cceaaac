"""Keyset pagination (AIP-158): a page token holds the sort key of the last row and belongs to one query."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from gatehouse.storage.database import Database

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_EPOCH = datetime.fromtimestamp(0, UTC)
R = TypeVar("R")


class PageTokenError(ValueError):
    """A page token is malformed or belongs to another query."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The page that a caller asks for.

    Attributes:
        token: `page_token` of the request; "" for the first page.
        size: `page_size` of the request; 0 for the default.
    """

    token: str = ""
    size: int = 0

    @property
    def limit(self) -> int:
        """Largest number of rows to return."""
        return min(self.size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page of results. `next_page_token` is "" on the last page."""

    rows: Sequence[R]
    next_page_token: str


async def fetch_page(
    database: Database,
    statement: sa.Select[Any],
    key: Sequence[sa.Column[Any]],
    convert: Callable[[Any], R],
    page: PageRequest,
    *,
    query: str,
    descending: bool = False,
    timeout: float | None = None,
) -> Page[R]:
    """Fetch one page of results.

    Args:
        database: Database to read from.
        statement: SELECT without order and limit.
        key: Columns to sort by; together they are unique.
        convert: Turns a row into a result.
        page: Page to fetch.
        query: Text that identifies filter and order; a token of another query is rejected.
        descending: Sort all columns of the key in descending order.
        timeout: Seconds that the query may take.

    Raises:
        PageTokenError: The token is invalid.
        Unavailable: See Database.read.
    """
    after = read_page_token(query, page.token, key)
    if after is not None:
        columns = sa.tuple_(*key)
        last = sa.tuple_(*(sa.literal(v, c.type) for v, c in zip(after, key, strict=True)))
        statement = statement.where(columns < last if descending else columns > last)
    order = [column.desc() if descending else column.asc() for column in key]
    async with database.read(timeout) as connection:
        rows = (await connection.execute(statement.order_by(*order).limit(page.limit + 1))).all()
    token = ""
    if len(rows) > page.limit:
        rows = rows[: page.limit]
        token = write_page_token(query, [getattr(rows[-1], column.name) for column in key])
    return Page([convert(row) for row in rows], token)


def write_page_token(query: str, key: Sequence[object]) -> str:
    """Return the token of the page after the row whose sort key has these strings, UUIDs and aware times."""
    raw = json.dumps([_fingerprint(query), *map(_encode, key)], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def read_page_token(query: str, token: str, key: Sequence[sa.Column[Any]]) -> Sequence[Any] | None:
    """Return the sort key in a token, or None if the token is empty.

    Raises:
        PageTokenError: The token is invalid.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        fingerprint, *values = json.loads(raw)
        if fingerprint == _fingerprint(query):
            return [_decode(value, column) for value, column in zip(values, key, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    # Raised here, so that it does not carry the error of a parser, which may quote the token.
    raise PageTokenError("invalid page token")


def _fingerprint(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def _encode(value: object) -> object:
    if isinstance(value, datetime):
        return (value - _EPOCH) // timedelta(microseconds=1)
    return str(value) if isinstance(value, uuid.UUID) else value


def _decode(value: object, column: sa.Column[Any]) -> object:
    kind = column.type.python_type
    if kind is datetime and type(value) is int:
        return _EPOCH + timedelta(microseconds=value)
    if kind is uuid.UUID and isinstance(value, str):
        return uuid.UUID(value)
    if kind is str and isinstance(value, str) and _is_storable(value):
        return value
    raise ValueError


def _is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store `text`: JSON may contain NUL and unpaired surrogates."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)
