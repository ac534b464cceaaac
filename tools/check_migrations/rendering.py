"""The SQL of a migration, rendered without a database."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import extract_tb, walk_stack

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

_LITERAL = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
_BODY = re.compile(r"(\$\w*\$).*?\1", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a migration breaks.

    Attributes:
        line: Line of the script.
        rule: Name of the rule.
        text: What is wrong, and what to do instead.
    """

    line: int
    rule: str
    text: str


class Rendered:
    """The SQL of one migration.

    Attributes:
        script: The migration.
        sql: What it would execute, in a transaction.
        statements: Each statement without comments and literals, and the line of the script that made it.
        problems: What it breaks. First, that it cannot be rendered to its end.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.sql = "BEGIN;\n"
        self.statements: list[tuple[int, str]] = []
        self.problems: list[Problem] = []
        self._starts: list[int] = []
        self._lines: list[int] = []
        options = {"as_sql": True, "output_buffer": self, "login_role": "login_role"}
        # Named parameters, so that a percent sign stays one.
        context = MigrationContext.configure(
            dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=options
        )
        try:
            with Operations.context(context):
                script.module.upgrade()
        except Exception as error:  # noqa: BLE001 - whatever the script raises
            self.problems.append(self._failure(error))
        self.sql += "COMMIT;\n"

    def _failure(self, error: Exception) -> Problem:
        lines = [
            frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == self.script.path
        ]
        text = f"the migration cannot be written as SQL ({reason(error)}); to be checked, it must not need "
        text += "the result of a query; use op.execute"
        return Problem((lines and lines[-1]) or 1, "offline", text)

    def write(self, text: str) -> None:
        """Add a statement. Called by alembic."""
        frames = (line for frame, line in walk_stack(None) if frame.f_code.co_filename == self.script.path)
        self._starts.append(self.sql.count("\n"))
        self._lines.append(next(frames, 1))
        self.sql += text
        self.statements += ((self._lines[-1], statement) for statement in _split(text))

    def flush(self) -> None:
        """Do nothing. Called by alembic."""

    def line(self, number: int) -> int:
        """Return the line of the script that made a line of the SQL; both count from 1 and 0."""
        position = bisect_right(self._starts, number) - 1
        return self._lines[position] if position >= 0 else 1


def reason(error: Exception) -> str:
    """Return the type of an error, and the first line of its text."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _shorten(literal: re.Match[str]) -> str:
    return "''" if literal[0].startswith("'") else " "


def _split(text: str) -> Iterator[str]:
    """Yield the statements of a text, with single spaces and without comments and literals.

    Bodies of functions and DO blocks are kept, but not split.
    """
    bodies: list[str] = []

    def hide(match: re.Match[str]) -> str:
        bodies.append(match[0])
        return f"$BODY{len(bodies) - 1}$"

    for statement in _BODY.sub(hide, _LITERAL.sub(_shorten, text)).split(";"):
        if statement.strip():
            joined = " ".join(statement.split())
            yield re.sub(r"\$BODY(\d+)\$", lambda match: bodies[int(match[1])], joined)
