"""Which errors of PostgreSQL mean that the database is unavailable, by SQLSTATE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import psycopg.errors
import sqlalchemy as sa

from gatehouse.domain import Unavailable

_UNAVAILABLE = ("DATABASE_UNAVAILABLE", "the database is unavailable; retry later")
_BUSY = ("DATABASE_BUSY", "the database is busy; retry later")
_CONFLICT = ("DATABASE_CONFLICT", "the database ended a transaction in favor of another one; retry")
_FULL = ("DATABASE_FULL", "the database has no space left; retry later")
_NOT_MIGRATED = ("DATABASE_NOT_MIGRATED", "the database is not migrated to the required version")
_READ_ONLY = ("DATABASE_READ_ONLY", "the database is read-only; retry later")
_TIMEOUT = ("STATEMENT_TIMEOUT", "the database took too long; retry later")

# By SQLSTATE, or by its class, its first two characters. An error that is not listed is one of our own.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_REASONS = {
    "08": _UNAVAILABLE,  # connection exception
    "0A000": _UNAVAILABLE,  # a prepared statement is from before a migration
    "25006": _READ_ONLY,
    "25P03": _UNAVAILABLE,  # idle in transaction for too long
    "25P04": _UNAVAILABLE,  # transaction timeout
    "26000": _UNAVAILABLE,  # a prepared statement does not exist: a pooler changed the connection
    "28": _UNAVAILABLE,  # invalid authorization
    "3D000": _UNAVAILABLE,  # the database does not exist
    "3F000": _NOT_MIGRATED,  # undefined schema
    "40": _CONFLICT,  # serialization failure, deadlock, conflict with the recovery of a standby
    "42703": _NOT_MIGRATED,  # undefined column
    "42704": _NOT_MIGRATED,  # undefined object
    "42883": _NOT_MIGRATED,  # undefined function
    "42P01": _NOT_MIGRATED,  # undefined table
    "42P05": _UNAVAILABLE,  # a prepared statement exists already: a pooler changed the connection
    "53": _BUSY,  # out of memory, too many connections
    "53100": _FULL,
    "55000": _UNAVAILABLE,  # not in the required state, such as starting up
    "55006": _BUSY,  # object in use
    "55P03": _BUSY,  # lock not available
    "57": _UNAVAILABLE,  # shutdown, crash, database dropped, starting up
    "57014": _TIMEOUT,
    "58": _UNAVAILABLE,  # input and output errors
    "72": _CONFLICT,  # snapshot too old
}
# After these errors another connection may serve: another server, or one without these prepared statements.
_USELESS_CONNECTION = {"0A000", "25006", "26000", "42P05"}
_INSUFFICIENT_PRIVILEGE = "42501"
# PostgreSQL reports no SQLSTATE for a connection that it refuses.
_REFUSED_BECAUSE_BUSY = ("too many", "remaining connection slots")


class DatabaseUnavailable(Unavailable):
    """The database is unavailable.

    Args:
        reason: See DomainError.
        message: See DomainError.
        detail: What PostgreSQL or libpq reported, for the log of the operator; "" if it is not known.
    """

    def __init__(self, reason: str, message: str, detail: str = "") -> None:
        super().__init__(reason, message)
        self.detail = detail


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error of psycopg, also if SQLAlchemy has wrapped it, or ""."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return (original.sqlstate or "") if isinstance(original, psycopg.Error) else ""


def makes_connection_useless(error: BaseException) -> bool:
    """Whether the next call should use another connection, although this one is still open."""
    return sqlstate(error) in _USELESS_CONNECTION


@contextmanager
def unavailable_errors(*, read_only: bool = False) -> Iterator[None]:
    """Raise DatabaseUnavailable for errors that mean that the database is unavailable.

    Args:
        read_only: Whether the transaction is read-only by our own choice.
    """
    try:
        yield
    except sa.exc.TimeoutError:
        raise DatabaseUnavailable(*_BUSY, "all connections of the pool are in use") from None
    except (sa.exc.DBAPIError, psycopg.Error) as error:
        state = sqlstate(error)
        reason = _REASONS.get(state) or _REASONS.get(state[:2])
        if reason is _READ_ONLY and read_only:
            raise
        if reason is None and not _has_lost_connection(error):
            raise
        original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        said = original.diag.message_primary if isinstance(original, psycopg.Error) else None
        raise DatabaseUnavailable(*(reason or _UNAVAILABLE), said or "the connection was lost") from None


def _has_lost_connection(error: sa.exc.DBAPIError | psycopg.Error) -> bool:
    if isinstance(error, sa.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        return isinstance(error.orig, psycopg.OperationalError)
    return isinstance(error, psycopg.OperationalError)


def failed_check(error: Exception) -> DatabaseUnavailable:
    """Return the error for a health check that failed for another reason, such as a missing privilege."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    said = original.diag.message_primary if isinstance(original, psycopg.Error) else None
    reason = "DATABASE_ACCESS_DENIED" if sqlstate(error) == _INSUFFICIENT_PRIVILEGE else "DATABASE_ERROR"
    return DatabaseUnavailable(reason, "the database cannot be used", said or type(error).__name__)


def refused_connection(error: Exception, password: str) -> DatabaseUnavailable:
    """Return the error for a connection that could not be opened.

    Args:
        error: Why it could not be opened.
        password: Left out of the detail.
    """
    # For several hosts, psycopg reports the last failure and then all of them.
    *_, failures = str(error).rpartition("All failures were:")
    lines = (line.strip(" -") for line in failures.splitlines() if not line.startswith("\t"))
    detail = "; ".join(filter(None, lines)) or type(error).__name__
    if password:
        detail = detail.replace(password, "***")
    busy = any(text in detail for text in _REFUSED_BECAUSE_BUSY)
    return DatabaseUnavailable(*(_BUSY if busy else _UNAVAILABLE), detail[:500])


def read_only_database() -> DatabaseUnavailable:
    """Return the error for a server that accepts no changes."""
    return DatabaseUnavailable(*_READ_ONLY, "the server is a standby, or default_transaction_read_only is on")


def former_primary() -> DatabaseUnavailable:
    """Return the error for a server that another one has replaced."""
    return DatabaseUnavailable(*_UNAVAILABLE, "the server is a former primary: it is on an older timeline")


def unanswered() -> DatabaseUnavailable:
    """Return the error for a server that does not answer."""
    return DatabaseUnavailable(
        "DATABASE_TIMEOUT", "the database does not respond; retry later", "the server does not respond"
    )
