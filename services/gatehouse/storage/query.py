"""A statement that is compiled once, for the calls that come by the thousand."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call] # SQLAlchemy has left it without types


class Query:
    """A SELECT whose values are all named parameters; see Database.fetch_one.

    Attributes:
        text: The statement as psycopg takes it.
        row: Makes a row, with a name for each column, out of its values.

    Raises:
        ValueError: A type of it means work for SQLAlchemy at each row, which is left out here.
    """

    def __init__(self, statement: sa.Select[Any]) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        columns = list(statement.selected_columns)
        for kind in [column.type for column in columns]:
            if kind.dialect_impl(_DIALECT).result_processor(_DIALECT, None) is not None:
                raise ValueError(f"{kind!r} is converted by SQLAlchemy; run this statement on a connection")
        self.text = str(compiled)
        row = namedtuple("Row", [column.name for column in columns])  # type: ignore[misc]  # noqa: PYI024 - a table's columns
        self.row: Callable[[Iterable[object]], Any] = row._make
        self.span_attributes: Mapping[str, str] = {
            "db.system.name": "postgresql",
            "db.query.text": self.text[:2000],
        }
