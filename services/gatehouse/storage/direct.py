"""A SELECT that runs on the psycopg connection, past SQLAlchemy's execution.

GetUser takes 697 us of CPU this way and 999 us with `AsyncConnection.execute`. Use it only for a query
that nearly every call runs. See benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from psycopg.rows import namedtuple_row
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from gatehouse.storage.database import Database, mark_failed, start_statement_span


class DirectSelect:
    """A SELECT that SQLAlchemy compiles once; its values are `sa.bindparam`s.

    Args:
        statement: Selects columns that SQLAlchemy does not convert.

    Raises:
        ValueError: A column needs conversion by SQLAlchemy.
    """

    def __init__(self, statement: sa.Select[Any]) -> None:
        dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped
        for column in statement.selected_columns:
            if column.type.dialect_impl(dialect).result_processor(dialect, None) is not None:
                raise ValueError(f"{column.name}: SQLAlchemy converts {column.type!r}; use Database.read")
        self._text = str(statement.compile(dialect=dialect))

    async def first(
        self, database: Database, parameters: Mapping[str, object], deadline: float | None = None
    ) -> Any:
        """Return the first row, a named tuple, or None.

        Raises:
            Unavailable: See Database.read.
        """
        async with database.driver(deadline) as connection:
            span = start_statement_span(database.tracer, self._text)
            try:
                cursor = connection.cursor(row_factory=namedtuple_row)
                await cursor.execute(self._text, parameters)
                return await cursor.fetchone()
            except Exception as error:
                mark_failed(span, error)
                raise
            finally:
                span.end()
